"""What `cmake --install` puts on a machine: programs that run in place, and units that systemd understands."""
import os
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.abspath(os.environ.get("OPENVEIL_BIN", os.path.join(ROOT, "build/dev/bin")))
PROGRAMS = ("openveil", "openveil-ingest", "openveil-aggregator")
SERVICES = ("openveil-ingest.service", "openveil-aggregator.service")
SOCKETS = {"openveil-ingest.socket": "pixel", "openveil-ingest-admin.socket": "admin"}
EXPOSURE_MAX = 20  # tenths, of systemd-analyze security: below 2.0


def run(*argv, check=True, **options):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{argv} exited with {done.returncode}: {done.stderr}{done.stdout}")
    return done


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="openveil-install-")
        environment = dict(os.environ, DESTDIR=cls.dir)
        # Stripped, as packages are: what is left of the build machine in a program is then not debug information.
        run("cmake", "--install", os.path.dirname(BIN), "--strip", env=environment)
        cls.prefix = cls.find("openveil-ingest")[: -len("/bin/openveil-ingest")]

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    @classmethod
    def find(cls, name):
        for folder, _, files in os.walk(cls.dir):
            if name in files:
                return os.path.join(folder, name)
        raise AssertionError(f"{name} is not installed")

    def program(self, name):
        return os.path.join(self.prefix, "bin", name)

    def test_the_tree_is_what_is_meant(self):
        found = sorted(os.path.relpath(os.path.join(folder, name), self.prefix)
                       for folder, _, files in os.walk(self.dir) for name in files)
        self.assertEqual(found, sorted([f"bin/{name}" for name in PROGRAMS] +
                                       [f"lib/systemd/system/{name}" for name in (*SERVICES, *SOCKETS)] +
                                       ["lib/sysusers.d/openveil.conf", "lib/tmpfiles.d/openveil.conf",
                                        "share/openveil/fetch-classes.txt"]))

    def test_programs_say_who_they_are(self):
        for name in PROGRAMS:
            version = run(self.program(name), "--version").stdout
            self.assertRegex(version, r"^openveil\S* \d+\.\d+\.\d+\n$")
            self.assertGreater(len(run(self.program(name), "--help").stdout), 200)

    def test_the_sample_configuration_is_good(self):
        path = os.path.join(self.dir, "sample.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(run(self.program("openveil"), "config", "sample").stdout)
        try:
            run(self.program("openveil"), "--config", path, "config", "check")
            for name in PROGRAMS[1:]:
                run(self.program(name), "--config", path, "--check-config")
        finally:
            os.unlink(path)

    def test_fetch_classes_are_those_built_in(self):
        installed = run(self.program("openveil"), "fetch-classes", "check",
                        os.path.join(self.prefix, "share/openveil/fetch-classes.txt")).stdout
        built_in = run(self.program("openveil"), "fetch-classes", "check").stdout
        hash_of = re.compile(r"^sha256 ([0-9a-f]{64})$", re.M)
        self.assertEqual(hash_of.findall(installed), hash_of.findall(built_in))
        self.assertEqual(len(hash_of.findall(installed)), 1)

    def test_libraries_are_the_systems(self):
        for name in PROGRAMS:
            libraries = re.findall(r"=> (\S+)", run("ldd", self.program(name)).stdout)
            self.assertGreater(len(libraries), 3)
            for library in libraries:
                self.assertRegex(library, r"^(/usr)?/lib/", f"of {name}")
                if shutil.which("dpkg"):
                    # Packages still name /lib what is /usr/lib now.
                    real = os.path.realpath(library)
                    names = {library, real, real.replace("/usr/lib/", "/lib/", 1)}
                    owned = run("dpkg", "-S", *names, check=False).stdout
                    self.assertTrue(owned, f"{library} of {name} belongs to no package")

    def test_programs_know_nothing_of_the_build_machine(self):
        for name in PROGRAMS:
            with open(self.program(name), "rb") as file:
                self.assertNotIn(ROOT.encode(), file.read(), name)
            dynamic = run("readelf", "-d", self.program(name)).stdout
            self.assertNotRegex(dynamic, r"RPATH|RUNPATH")
            self.assertRegex(dynamic, r"FLAGS_1.*NOW.*PIE|FLAGS_1.*PIE.*NOW")

    def unit(self, name):
        """A copy whose programs are those of this tree, so that they are there."""
        with open(os.path.join(self.prefix, "lib/systemd/system", name), encoding="utf-8") as file:
            text = file.read()
        prefix = self.prefix[len(self.dir):]
        if name in SERVICES:
            self.assertIn(f"ExecStart={prefix}/bin/{name[:-len('.service')]}\n", text)
        path = os.path.join(self.dir, "units", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace(f"{prefix}/bin/", f"{self.prefix}/bin/"))
        self.addCleanup(shutil.rmtree, os.path.dirname(path), ignore_errors=True)
        return path

    def test_units_hide_keys(self):
        hidden = {"openveil-ingest.service": "/etc/openveil/keys/contact.key",
                  "openveil-aggregator.service": "/etc/openveil/keys"}
        self.assertEqual(set(hidden), set(SERVICES))
        for name, path in hidden.items():
            with open(self.unit(name), encoding="utf-8") as unit:
                lines = unit.read().splitlines()
            self.assertIn(f"InaccessiblePaths=-{path}", lines)
            self.assertIn("LimitCORE=0", lines)

    def test_units_speak_the_programs_protocols(self):
        for name in SERVICES:
            with open(self.unit(name), encoding="utf-8") as unit:
                lines = unit.read().splitlines()
            self.assertIn("Type=notify", lines)
            self.assertTrue(any(line.startswith("WatchdogSec=") for line in lines))
        for name, socket in SOCKETS.items():
            with open(self.unit(name), encoding="utf-8") as unit:
                self.assertIn(f"FileDescriptorName={socket}", unit.read().splitlines())

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_systemd_understands_the_units(self):
        # The sockets' service has to lie beside them.
        services = [self.unit(name) for name in SERVICES]
        sockets = [self.unit(name) for name in SOCKETS]
        for path in services + sockets:
            name = os.path.basename(path)
            done = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=one", path, check=False)
            self.assertEqual((done.returncode, [line for line in done.stderr.splitlines() if name in line]), (0, []),
                             done.stderr)
        for path in services:
            run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", path)


if __name__ == "__main__":
    unittest.main()

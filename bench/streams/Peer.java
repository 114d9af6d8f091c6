// The peer of the aggregator: a Kafka Streams program, exactly once, that keeps the day of each contact's last open and the
// distinct contacts of each day of sending and cell, from the same blocks. It asks nobody for consent, checks no checksum
// and no segment numbers, and forgets nothing: all that it leaves out is in its favour, as are stores in memory.
// usage: Peer BROKERS TOPIC WARM-UP-EVENTS EVENTS STATE-DIRECTORY
// Prints "cpu_s=…" once EVENTS events after the first WARM-UP-EVENTS are processed and committed.
import com.github.luben.zstd.Zstd;
import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

public final class Peer {
    static final int HEAD = 4 + 1 + 1, RULES = 32, LOW_PLANES = 5, HIGH_PLANES = 3;
    static final OperatingSystemMXBean SYSTEM = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    static final CountDownLatch DONE = new CountDownLatch(1);
    static long warmUp, wanted, seen, cpuAtStart;

    static final class Counter implements Processor<byte[], byte[], Void, Void> {
        KeyValueStore<Bytes, byte[]> lastOpen, cells, counts;

        @Override
        public void init(ProcessorContext<Void, Void> context) {
            lastOpen = context.getStateStore("last-open");
            cells = context.getStateStore("cells");
            counts = context.getStateStore("counts");
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            ByteBuffer in = ByteBuffer.wrap(record.value());
            if (in.get(4) != 1)
                return; // a marker
            int at = HEAD + 1 + Byte.toUnsignedInt(in.get(HEAD)) + 3 * 8 + 2 * 2;
            int day = in.getInt(at), body = at + 8;
            int n = in.getInt(body + RULES), rawLength = in.getInt(body + RULES + 4), low = body + RULES + 8;
            if (n == 0)
                return;
            int packed = low + LOW_PLANES * n;
            byte[] raw = new byte[rawLength];
            Zstd.decompressByteArray(raw, 0, rawLength, record.value(), packed, record.value().length - 8 - packed);
            block(ByteBuffer.wrap(raw), record.value(), low, n, day);
            seen += n;
            if (cpuAtStart == 0 && seen >= warmUp)
                cpuAtStart = SYSTEM.getProcessCpuTime();
            if (seen >= warmUp + wanted)
                DONE.countDown();
        }

        void block(ByteBuffer raw, byte[] message, int low, int n, int day) {
            int runs = raw.getInt(0), kinds = raw.getInt(4);
            int counts = 8 + 4 * runs, ages = counts + 4 * runs, streams = ages + 4 * kinds;
            int providers = streams + 2 * kinds, classes = providers + kinds, fetches = classes + kinds;
            int high = fetches + kinds, numbers = high + HIGH_PLANES * n, width = kinds > 256 ? 2 : 1;
            for (int run = 0, i = 0; run < runs; run++) {
                int tenant = (int) column(raw, 8, runs, run, 4);
                int end = i + (int) column(raw, counts, runs, run, 4);
                for (long pseudonym = 0; i < end; i++) {
                    long difference = column(raw, high, n, i, HIGH_PLANES);
                    for (int plane = 0; plane < LOW_PLANES; plane++)
                        difference = difference << 8 | message[low + plane * n + i] & 0xff;
                    pseudonym += difference;
                    int kind = (int) column(raw, numbers, n, i, width);
                    int sent = day - (int) column(raw, ages, kinds, kind, 4);
                    int cell = (raw.get(fetches + kind) & 0xff) << 24
                        | (int) column(raw, streams, kinds, kind, 2) << 8 | raw.get(providers + kind) & 0xff;
                    event(tenant, pseudonym, day, sent, cell, raw.get(classes + kind) >> 4 == 1);
                }
            }
        }

        void event(int tenant, long pseudonym, int day, int sent, int cell, boolean transactional) {
            Bytes contact = Bytes.wrap(ByteBuffer.allocate(12).putInt(tenant).putLong(pseudonym).array());
            byte[] before = lastOpen.get(contact);
            if (before == null || ByteBuffer.wrap(before).getInt() < day)
                lastOpen.put(contact, ByteBuffer.allocate(4).putInt(day).array());
            if (!transactional)
                return;
            Bytes window = Bytes.wrap(ByteBuffer.allocate(16).putInt(tenant).putInt(sent).putLong(pseudonym).array());
            byte[] had = cells.get(window);
            if (had != null && ByteBuffer.wrap(had).getInt() <= cell)
                return;
            cells.put(window, ByteBuffer.allocate(4).putInt(cell).array());
            if (had != null)
                count(tenant, sent, ByteBuffer.wrap(had).getInt(), -1);
            count(tenant, sent, cell, 1);
        }

        void count(int tenant, int sent, int cell, int by) {
            Bytes key = Bytes.wrap(ByteBuffer.allocate(12).putInt(tenant).putInt(sent).putInt(cell).array());
            byte[] before = counts.get(key);
            long now = (before == null ? 0 : ByteBuffer.wrap(before).getLong()) + by;
            counts.put(key, ByteBuffer.allocate(8).putLong(now).array());
        }
    }

    // Planes of n bytes, the highest first.
    static long column(ByteBuffer raw, int at, int n, int i, int width) {
        long value = 0;
        for (int plane = 0; plane < width; plane++)
            value = value << 8 | raw.get(at + plane * n + i) & 0xff;
        return value;
    }

    static StoreBuilder<KeyValueStore<Bytes, byte[]>> store(String name) {
        return Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore(name), Serdes.Bytes(), Serdes.ByteArray())
            .withCachingEnabled();
    }

    public static void main(String[] args) throws Exception {
        warmUp = Long.parseLong(args[2]);
        wanted = Long.parseLong(args[3]);
        Properties properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, "openveil-peer-" + System.nanoTime());
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        properties.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
        properties.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 256L << 20);
        properties.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        properties.put(StreamsConfig.STATE_DIR_CONFIG, args[4]);
        Topology topology = new Topology();
        topology.addSource("events", Serdes.ByteArray().deserializer(), Serdes.ByteArray().deserializer(), args[1])
            .addProcessor("count", Counter::new, "events")
            .addStateStore(store("last-open"), "count")
            .addStateStore(store("cells"), "count")
            .addStateStore(store("counts"), "count");
        KafkaStreams streams = new KafkaStreams(topology, properties);
        streams.setUncaughtExceptionHandler((failure) -> {
            failure.printStackTrace();
            Runtime.getRuntime().halt(1);
            return null;
        });
        streams.start();
        DONE.await();
        streams.close(Duration.ofSeconds(60)); // commits
        System.out.printf("cpu_s=%.3f%n", (SYSTEM.getProcessCpuTime() - cpuAtStart) / 1e9);
    }
}

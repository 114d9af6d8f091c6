"""Bar charts of repeated measurements as SVG: a bar is the median, the line on it reaches from the lowest to the highest."""
import html
import os
import statistics

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#9c6b4e")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 360, 60, 60, 50


def _step(largest):
    """A round distance between grid lines, for about five of them."""
    step = 10.0 ** (len(str(int(largest))) - 1) if largest >= 1 else 0.1
    while largest / step > 8:
        step *= 2
    while largest / step < 4:
        step /= 2
    return step


def bars(path, title, unit, groups, series):
    """`groups`: the names below; `series`: {name: [values of all runs, one list a group, None where there is none]}."""
    largest = max(max(runs) for of_groups in series.values() for runs in of_groups if runs) or 1
    y_of = lambda value: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / (1.05 * largest)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
           f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
           f'<text x="{LEFT}" y="20" font-size="15">{html.escape(title)}, {html.escape(unit)}</text>']
    step = _step(largest)
    for i in range(int(largest / step) + 1):
        y = y_of(i * step)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{i * step:.6g}</text>')
    room = (WIDTH - LEFT - 10) / len(groups)
    wide = room * 0.8 / len(series)
    for s, (name, of_groups) in enumerate(series.items()):
        colour = COLOURS[s % len(COLOURS)]
        out.append(f'<rect x="{LEFT + s * 170}" y="30" width="12" height="12" fill="{colour}"/>'
                   f'<text x="{LEFT + s * 170 + 17}" y="41">{html.escape(name)}</text>')
        for g, runs in enumerate(of_groups):
            if not runs:
                continue
            x, y = LEFT + g * room + room * 0.1 + s * wide, y_of(statistics.median(runs))
            middle = x + wide * 0.46
            out.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide * 0.92:.1f}" height="{HEIGHT - BOTTOM - y:.1f}" '
                       f'fill="{colour}"/><line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y_of(min(runs)):.1f}" '
                       f'y2="{y_of(max(runs)):.1f}" stroke="black"/>')
    for g, name in enumerate(groups):
        out.append(f'<text x="{LEFT + (g + 0.5) * room:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                   f'{html.escape(name)}</text>')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n</svg>\n")
    print(f"# plot {os.path.relpath(path)}", flush=True)

"""Draws a bar chart of CPU times, with a group for each size of answer."""

from html import escape

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 360, 46, 40, 44
# Distinguishable for color-blind readers.
COLORS = {"h2o": "#bbbbbb", "nghttpd": "#999999", "plaque": "#d55e00", "bare": "#56b4e9", "envoy": "#777777",
           "stock": "#0072b2", "go": "#009e73"}


def bars(title, groups):
    """An SVG of `groups`: pairs of a label and a value for each server."""
    most = max(value for _, values in groups for value in values.values())
    step = next(step for step in (1, 2, 5, 10, 20, 50) if most / step <= 8)
    top = step * -(-most // step)
    height = HEIGHT - TOP - BOTTOM
    group_width = (WIDTH - LEFT - 10) / len(groups)
    bar_width = group_width / (len(COLORS) + 1)

    def level(value):
        return TOP + height * (1 - value / top)

    parts = [text(LEFT, 20, title, "start", "font-weight='bold'")]
    for number in range(int(top / step) + 1):
        y = level(number * step)
        parts += [f"<path d='M{LEFT} {y:.1f}H{WIDTH - 10}' stroke='#ddd'/>", text(LEFT - 6, y + 4, number * step, "end")]
    for index, (label, values) in enumerate(groups):
        left = LEFT + index * group_width + bar_width / 2
        parts.append(text(left + (group_width - bar_width) / 2, HEIGHT - BOTTOM + 16, label, "middle"))
        for place, (name, color) in enumerate(COLORS.items()):
            x, y = left + place * bar_width, level(values[name])
            parts.append(f"<rect x='{x:.1f}' y='{y:.1f}' width='{bar_width - 2:.1f}' height='{level(0) - y:.1f}' fill='{color}'/>")
            if name == "plaque":
                parts.append(text(x + bar_width / 2, y - 4, f"{values[name]:.1f}", "middle"))
    for place, (name, color) in enumerate(COLORS.items()):
        x = LEFT + place * 105
        parts += [f"<rect x='{x}' y='{HEIGHT - 18}' width='11' height='11' fill='{color}'/>", text(x + 16, HEIGHT - 8, name, "start")]
    style = "font-family='sans-serif' font-size='12' fill='#333'"
    return (f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' {style}>\n"
            f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#fff'/>\n" + "\n".join(parts) + "\n</svg>\n")


def text(x, y, what, anchor, more=""):
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' {more}>{escape(str(what))}</text>"

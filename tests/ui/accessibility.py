"""Measures the accessibility of a page: contrast, accessible names, a visible focus."""

from typing import Any

from ui.chromium import Page

# Contrast by WCAG 2.2, 1.4.3 and 1.4.11: 4.5 for text, 3 for large text and for borders of controls.
LOW_CONTRAST = """(() => {
  const channels = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = channels(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  let checked = 0;
  for (const node of document.querySelectorAll("body *")) {
    const style = getComputedStyle(node);
    if (!node.checkVisibility() || node.closest("[disabled]")) continue;
    if ([...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())) {
      const color = channels(node instanceof SVGElement ? style.fill : style.color);
      const size = parseFloat(style.fontSize);
      const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
      const found = contrast(color, behind(node.parentElement && node instanceof SVGElement ? node.ownerSVGElement : node));
      checked += 1;
      if (found < needed) faint.push(`${node.tagName}.${node.getAttribute("class")} ${node.textContent.slice(0, 30)}: ${found.toFixed(2)}`);
    }
    if (["BUTTON", "SELECT", "INPUT", "TEXTAREA"].includes(node.tagName)) {
      const found = contrast(channels(style.borderTopColor), behind(node.parentElement));
      if (found < 3) faint.push(`border of ${node.tagName} ${node.textContent}: ${found.toFixed(2)}`);
    }
  }
  return { checked, faint };
})()"""

FOCUS = """(() => {
  const node = document.activeElement;
  const style = getComputedStyle(node);
  const name = node.getAttribute("aria-label") ?? node.labels?.[0]?.innerText ?? (node.innerText || node.id);
  return { tag: node.tagName, id: node.id, name: name.trim().slice(0, 60),
           ring: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth) };
})()"""

OPERABLE = {
    "button",
    "link",
    "textbox",
    "combobox",
    "spinbutton",
    "meter",
    "dialog",
    "log",
    "region",
    "image",
}


async def low_contrast(page: Page) -> list[str]:
    """The texts and borders whose contrast is too low. AssertionError if the page has hardly any text."""
    found = await page.js(LOW_CONTRAST)
    assert found["checked"] > 20
    return found["faint"]


async def unnamed(page: Page) -> list[str]:
    """The controls without an accessible name."""
    tree = await page.send("Accessibility.getFullAXTree")
    return [
        str(node)
        for node in tree["nodes"]
        if not node.get("ignored")
        and node.get("role", {}).get("value") in OPERABLE
        and not node.get("name", {}).get("value")
    ]


async def tab_order(page: Page, most: int = 200) -> list[dict[str, Any]]:
    """The elements that Tab focuses, in order, until the first one again."""
    steps: list[dict[str, Any]] = []
    for _ in range(most):
        await page.press("Tab")
        step = await page.js(FOCUS)
        if step["tag"] == "BODY" or (steps and step == steps[0]):
            break
        steps.append(step)
    return steps

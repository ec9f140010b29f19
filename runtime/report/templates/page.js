"use strict";
// Zoom: drag over a chart, or + and - and the arrow keys on it; 0 shows all again. Live pages ask for news.
const W = 640, H = 220;
const units = { bytes: v => { let n = 0; while (v >= 1024 && n < 3) { v /= 1024; n++; } return v.toFixed(n ? (n > 2 ? 2 : 1) : 0) + " " + ["B", "KiB", "MiB", "GiB"][n]; }, seconds: v => +v.toPrecision(3) + " s", "": v => String(+v.toPrecision(3)) };

function chart(figure) {
  const svg = figure.querySelector("svg"), data = JSON.parse(figure.querySelector("script").textContent);
  const steps = data.lines.flatMap(line => line.points.map(point => point[0]));
  const whole = [Math.min(...steps), Math.max(...steps)];
  if (whole[1] <= whole[0]) whole[1] = whole[0] + 1;
  let [from, to] = whole;
  function draw() {
    const seen = data.lines.map(line => line.points.filter(p => p[0] >= from && p[0] <= to));
    const ends = seen.flat().flatMap(p => [p[1], p[2], p[3]]).filter(v => v !== null);
    if (!ends.length) return;
    let low = data.unit === "bytes" ? 0 : Math.min(...ends), high = Math.max(...ends);
    const air = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    if (data.unit !== "bytes") low = low >= 0 ? Math.max(0, low - air) : low - air;
    high += air;
    const x = step => (step - from) / (to - from) * W, y = v => H - (v - low) / (high - low) * H;
    svg.querySelectorAll("g").forEach((group, place) => {
      const points = seen[place], path = group.querySelector("path:not(.dot)");
      if (path) path.setAttribute("d", points.length ? "M" + points.map(p => x(p[0]).toFixed(1) + " " + y(p[1]).toFixed(1)).join("L") : "");
      const all = data.lines[place].points;
      group.querySelectorAll(".dot").forEach((dot, at) => { const p = all[at]; dot.setAttribute("d", `M${x(p[0])} ${y(p[1])}h0`); });
      const bounded = all.filter(p => p[2] !== null && p[3] !== null);
      group.querySelectorAll("line").forEach((bar, at) => { const p = bounded[at]; for (const k of ["x1", "x2"]) bar.setAttribute(k, x(p[0])); bar.setAttribute("y1", y(p[2])); bar.setAttribute("y2", y(p[3])); });
    });
    figure.querySelector(".low").textContent = units[data.unit](low);
    figure.querySelector(".top").textContent = units[data.unit](high);
    const words = figure.querySelectorAll(".x span");
    words[0].textContent = "step " + Math.round(from);
    words[1].textContent = Math.round(to);
  }
  function zoom(factor, middle = (from + to) / 2) {
    const half = Math.max(1, (to - from) / 2 * factor);
    from = Math.max(whole[0], middle - half); to = Math.min(whole[1], middle + half); draw();
  }
  function move(share) {
    const by = Math.min(whole[1] - to, Math.max(whole[0] - from, (to - from) * share));
    from += by; to += by; draw();
  }
  const all = () => { [from, to] = whole; draw(); };
  const keys = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), "0": all, ArrowLeft: () => move(-0.25), ArrowRight: () => move(0.25) };
  svg.addEventListener("keydown", event => { if (keys[event.key]) { event.preventDefault(); keys[event.key](); } });
  let began = null;
  const at = event => { const box = svg.getBoundingClientRect(); return from + (event.clientX - box.left) / box.width * (to - from); };
  svg.addEventListener("pointerdown", event => { began = at(event); });
  svg.addEventListener("pointerup", event => {
    const ended = at(event);
    if (began !== null && Math.abs(ended - began) > (to - from) / 50) { [from, to] = [Math.max(whole[0], Math.min(began, ended)), Math.min(whole[1], Math.max(began, ended))]; draw(); }
    began = null;
  });
  svg.addEventListener("dblclick", all);
  figure.querySelectorAll("button").forEach(button => button.addEventListener("click", () => keys[button.dataset.key]()));
}

function begin() { document.querySelectorAll("figure.chart").forEach(chart); }
begin();

if (document.body.dataset.live) {
  let seen = document.body.dataset.live;
  const word = document.getElementById("live");
  setInterval(async () => {
    try {
      const now = await (await fetch("/state")).text();
      word.textContent = "watching";
      if (now === seen) return;
      const text = await (await fetch("/")).text();
      document.querySelector("main").replaceWith(new DOMParser().parseFromString(text, "text/html").querySelector("main"));
      seen = now; begin();
    } catch { word.textContent = "the run or its watcher has ended"; }
  }, 2000);
}

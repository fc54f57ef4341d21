"use strict";
// Draws the charts of the report from the figures beside it. The tables need nothing of this.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const margin = { left: 66, right: 14, top: 10, bottom: 26 };

  const three = (value) => (value >= 99.95 ? value.toFixed(0) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2));
  const time = (s) => (s < 0.0009995 ? three(s * 1e6) + " µs" : s < 0.9995 ? three(s * 1e3) + " ms" : three(s) + " s");
  const tick = (s) => time(s).replace(/\.0+ /, " ").replace(/(\.\d*?)0+ /, "$1 ");
  const count = (value) => Math.round(value).toLocaleString("en-GB");
  const rate = (value) => (value >= 1000 ? count(value) : three(value)) + "/s";
  const clock = (s) => (s < 60 ? s + " s" : Math.floor(s / 60) + ":" + String(Math.floor(s % 60)).padStart(2, "0"));

  const make = (tag, attributes, parent, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const name in attributes) element.setAttribute(name, attributes[name]);
    if (text !== undefined) element.textContent = text;
    parent.appendChild(element);
    return element;
  };

  const linear = (low, high) => {
    const rough = (high - low) / 4 || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= rough * 0.999);
    const top = Math.max(Math.ceil(high / step - 1e-9), 1) * step;
    const ticks = [];
    for (let value = low; value <= top + step / 2; value += step) ticks.push(value);
    return { at: (v) => (v - low) / (top - low || 1), ticks };
  };

  const logarithmic = (low, high) => {
    let [from, to] = [Math.log10(low), Math.log10(high)];
    if (to - from < 0.4) [from, to] = [(from + to) / 2 - 0.2, (from + to) / 2 + 0.2];
    const factors = to - from > 3 ? [1] : to - from > 1.2 ? [1, 3] : [1, 2, 3, 5, 7];
    const ticks = [];
    for (let power = Math.floor(from); power <= to; power++)
      for (const factor of factors) {
        const value = factor * 10 ** power;
        if (Math.log10(value) >= from - 1e-9 && Math.log10(value) <= to + 1e-9) ticks.push(value);
      }
    return { at: (v) => (Math.log10(Math.max(v, 1e-9)) - from) / (to - from), ticks };
  };

  // A frame with axes; `x` and `y` turn figures into places.
  const frame = (id, height, xScale, xLabel, yScale, yLabel) => {
    const box = document.getElementById(id);
    box.textContent = "";
    const width = Math.max(box.clientWidth, 280);
    const root = make("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" }, box);
    const inner = { width: width - margin.left - margin.right, height: height - margin.top - margin.bottom };
    const x = (v) => margin.left + xScale.at(v) * inner.width;
    const y = (v) => margin.top + (1 - yScale.at(v)) * inner.height;
    for (const value of yScale.ticks) {
      make("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y(value), y2: y(value) }, root);
      make("text", { x: margin.left - 8, y: y(value) + 4, "text-anchor": "end" }, root, yLabel(value));
    }
    let last = -Infinity;
    for (const value of xScale.ticks) {
      if (x(value) > width - margin.right + 1 || x(value) - last < 44) continue;
      last = x(value);
      make("text", { x: x(value), y: height - 8, "text-anchor": "middle" }, root, xLabel(value));
    }
    const bottom = height - margin.bottom;
    make("line", { class: "axis", x1: margin.left, x2: width - margin.right, y1: bottom, y2: bottom }, root);
    return { root, x, y, width, height, bottom, top: margin.top };
  };

  const seconds = data.seconds;
  const end = seconds.length ? Math.max(...seconds.map((s) => s.t + s.span)) : 1;
  const overTime = () => {
    const scale = linear(0, end);
    return { at: (v) => v / end, ticks: scale.ticks };
  };
  const middle = (s) => s.t + s.span / 2;
  const path = (points) => points.map(([a, b], n) => (n ? "L" : "M") + a.toFixed(1) + " " + b.toFixed(1)).join("");
  // Stretches of seconds in which something ended: a line across a gap would show what was not.
  const stretches = () => {
    const found = [];
    let current = null;
    for (const second of seconds) {
      if (!second.p) current = null;
      else if (current) current.push(second);
      else found.push((current = [second]));
    }
    return found;
  };

  const cursors = [];
  const hover = (chart) => {
    const line = make("line", { class: "cursor", y1: chart.top, y2: chart.bottom, visibility: "hidden" }, chart.root);
    cursors.push([line, chart]);
    const leave = () => {
      tip.style.display = "none";
      for (const [other] of cursors) other.setAttribute("visibility", "hidden");
    };
    chart.root.addEventListener("mouseleave", leave);
    chart.root.addEventListener("mousemove", (event) => {
      const box = chart.root.getBoundingClientRect();
      const inside = (event.clientX - box.left - margin.left) / (chart.width - margin.left - margin.right);
      const second = seconds.find((s) => inside * end >= s.t && inside * end < s.t + s.span);
      if (!second) return leave();
      for (const [other, its] of cursors) {
        other.setAttribute("x1", its.x(middle(second)));
        other.setAttribute("x2", its.x(middle(second)));
        other.setAttribute("visibility", "visible");
      }
      const rows = [["from", clock(second.t)], ["requests", rate(second.rate)]];
      if (second.target !== null) rows.push(["asked for", rate(second.target)]);
      rows.push(["errors", count(second.errors)], ["in flight", count(second.in_flight)], [data.user_noun, count(second.users)]);
      if (second.p) ["p50", "p90", "p99", "max"].forEach((name, n) => rows.push([name, time(second.p[n])]));
      tip.textContent = "";
      const table = document.createElement("table");
      for (const row of rows) {
        const tr = table.insertRow();
        row.forEach((text) => (tr.insertCell().textContent = text));
      }
      tip.appendChild(table);
      tip.style.display = "block";
      const right = event.clientX + 18 + tip.offsetWidth > window.innerWidth;
      tip.style.left = (right ? event.clientX - tip.offsetWidth - 14 : event.clientX + 18) + "px";
      tip.style.top = Math.min(event.clientY + 12, window.innerHeight - tip.offsetHeight - 6) + "px";
    });
  };
  const warmup = (chart) => {
    if (data.warmup > 0) {
      const width = chart.x(Math.min(data.warmup, end)) - chart.x(0);
      make("rect", { class: "warmup", x: chart.x(0), y: chart.top, width, height: chart.bottom - chart.top }, chart.root);
    }
  };

  let view = "bands";
  const latency = () => {
    const times = seconds.flatMap((s) => (s.p ? [s.p[4], s.p[3]] : [])).filter((v) => v > 0);
    if (!times.length) return;
    const chart = frame("latency", 300, overTime(), clock, logarithmic(Math.min(...times), Math.max(...times)), tick);
    warmup(chart);
    const heat = data.heat;
    if (view === "heat") {
      const most = Math.max(...heat.columns.flatMap((column) => column.cells.map(([, n]) => n / column.span)));
      for (const column of heat.columns) {
        const [left, right] = [chart.x(column.t), chart.x(column.t + column.span)];
        for (const [bin, n] of column.cells) {
          const [low, high] = [chart.y(heat.edges[bin]), chart.y(heat.edges[bin + 1])];
          const attributes = { class: "cell", x: left, y: high, width: Math.max(right - left - 0.5, 0.5), height: Math.max(low - high, 1) };
          make("rect", { ...attributes, "fill-opacity": 0.1 + 0.9 * Math.sqrt(n / column.span / most) }, chart.root);
        }
      }
    }
    for (const stretch of stretches()) {
      // A single second has no length; give it that of itself.
      const ends = stretch.length === 1;
      const places = (n) =>
        stretch.flatMap((s) => (ends ? [s.t, s.t + s.span] : [middle(s)]).map((t) => [chart.x(t), chart.y(s.p[n])]));
      if (view === "bands") {
        for (const [low, high, opacity] of [[2, 3, 0.12], [1, 2, 0.24], [0, 1, 0.42]]) {
          const d = path([...places(low), ...places(high).reverse()]) + "Z";
          make("path", { class: "band", d, "fill-opacity": opacity }, chart.root);
        }
        make("path", { class: "tail", d: path(places(2)) }, chart.root);
        make("path", { class: "main", d: path(places(0)) }, chart.root);
      }
    }
    hover(chart);
  };

  const rates = () => {
    const most = Math.max(1, ...seconds.map((s) => Math.max(s.rate, s.target || 0)));
    const chart = frame("rate", 190, overTime(), clock, linear(0, most), (v) => (v >= 1000 ? v / 1000 + " k" : v) + "/s");
    warmup(chart);
    for (const s of seconds) {
      const [left, right] = [chart.x(s.t), chart.x(s.t + s.span)];
      const width = Math.max(right - left - Math.min(1, (right - left) / 6), 0.5);
      const bad = s.errors / s.span;
      const bar = (from, to, name) =>
        to > from && make("rect", { class: name, x: left, width, y: chart.y(to), height: Math.max(chart.y(from) - chart.y(to), 1) }, chart.root);
      bar(0, s.rate - bad, "bar");
      bar(Math.max(s.rate - bad, 0), s.rate, "errors");
    }
    const wanted = seconds.filter((s) => s.target !== null);
    const places = wanted.flatMap((s) => [[chart.x(s.t), chart.y(s.target)], [chart.x(s.t + s.span), chart.y(s.target)]]);
    if (places.length) make("path", { class: "target", d: path(places) }, chart.root);
    hover(chart);
  };

  const flight = () => {
    const most = Math.max(1, ...seconds.map((s) => Math.max(s.in_flight, s.users)));
    const chart = frame("flight", 150, overTime(), clock, linear(0, most), count);
    warmup(chart);
    const line = (name, figure) => {
      const places = seconds.map((s) => [chart.x(s.t + s.span), chart.y(figure(s))]);
      if (places.length === 1) places.unshift([chart.x(seconds[0].t), places[0][1]]);
      make("path", { class: name, d: path(places) }, chart.root);
    };
    line("users", (s) => s.users);
    line("main", (s) => s.in_flight);
    hover(chart);
  };

  const nines = (share) => -Math.log10(Math.max(1 - share, 1e-9));
  const percentiles = () => {
    const curve = data.curve;
    if (!curve.length) return;
    const last = nines(curve[curve.length - 1][0]);
    const all = [...curve, ...data.service].map(([, s]) => s).filter((s) => s > 0);
    const xScale = { at: (share) => nines(share) / last, ticks: [0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999].filter((s) => nines(s) <= last) };
    const chart = frame("percentiles", 240, xScale, (s) => parseFloat((s * 100).toFixed(5)) + " %", logarithmic(Math.min(...all), Math.max(...all)), tick);
    const place = ([share, s]) => [chart.x(share), chart.y(s)];
    const sure = curve.filter(([share]) => share <= data.censored_above);
    const unsure = curve.filter(([share]) => share >= (sure.length ? sure[sure.length - 1][0] : 0));
    if (sure.length) make("path", { class: "main", d: path(sure.map(place)) }, chart.root);
    if (unsure.length > 1) make("path", { class: "main unsure", d: path(unsure.map(place)) }, chart.root);
    const service = data.service.filter(([share]) => nines(share) <= last);
    if (service.length) make("path", { class: "users", d: path(service.map(place)) }, chart.root);
  };

  const distribution = () => {
    const { edges, counts } = data.bars;
    if (!counts.length) return;
    const chart = frame("distribution", 240, logarithmic(edges[0], edges[edges.length - 1]), tick, linear(0, Math.max(...counts)), (v) => (v >= 1000 ? v / 1000 + " k" : v));
    counts.forEach((n, bin) => {
      const [left, right] = [chart.x(edges[bin]), chart.x(edges[bin + 1])];
      if (n) make("rect", { class: "bar", x: left, width: Math.max(right - left - 0.7, 0.7), y: chart.y(n), height: Math.max(chart.bottom - chart.y(n), 1) }, chart.root)
        .appendChild(document.createElementNS("http://www.w3.org/2000/svg", "title")).textContent = `${time(edges[bin])} to ${time(edges[bin + 1])}: ${count(n)}`;
    });
  };

  const draw = () => {
    cursors.length = 0;
    for (const chart of [latency, rates, flight, percentiles, distribution]) chart();
  };
  for (const button of document.querySelectorAll(".switch button"))
    button.addEventListener("click", () => {
      view = button.value;
      for (const other of document.querySelectorAll(".switch button")) other.setAttribute("aria-pressed", other === button);
      draw();
    });
  let waiting;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(draw, 80);
  });
  draw();
})();

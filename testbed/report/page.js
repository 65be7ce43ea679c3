// Draws the figures, sorts tables, and saves both. Texts of the run are only ever set as text.
"use strict";
const NARROW = 600; // px

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ---- figures

const specOf = (plot) => JSON.parse(plot.nextElementSibling.textContent);
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

// The figure in the colours of the page, for the width that there is: narrow ones have their colour bar below.
function fitted({ data, layout }, plot) {
  const narrow = plot.clientWidth < NARROW;
  const ink = variable("--ink");
  const below = { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0.5, len: 1 };
  const traces = data.map((trace) => ({
    ...trace,
    ...(trace.texttemplate && { textfont: { color: ink, ...(narrow && { size: 9 }) } }),
    ...(trace.colorbar && narrow && { colorbar: { ...trace.colorbar, ...below } }),
  }));
  const taller = narrow && data.some((trace) => trace.colorbar) ? 60 : 0;
  return {
    data: traces,
    layout: {
      ...layout,
      height: layout.height + taller,
      margin: { ...layout.margin, b: layout.margin.b + taller },
      font: { ...layout.font, color: ink, ...(narrow && { size: 11 }) },
      hoverlabel: { bgcolor: variable("--panel"), font: { color: ink } },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    },
    config: { responsive: true, displayModeBar: false },
  };
}

// Plotly is in the page as gzip in base64, unless the page refers to a file. The content security policy has the
// hash of the unpacked script.
async function unpackPlotly() {
  const packed = document.getElementById("plotly");
  if (!packed || typeof DecompressionStream === "undefined") return;
  const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);
}

function draw(plot) {
  if (typeof Plotly === "undefined") {
    plot.textContent = document.getElementById("plotly")
      ? "This figure needs a newer browser: Chrome 80, Firefox 113, Safari 16.4 or later."
      : "This figure needs the file plotly.min.js of its sweep. `testbed report` with the run folder makes a page that has everything.";
    return;
  }
  const show = () => Plotly.react(plot, fitted(specOf(plot), plot));
  show();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
}

async function imageOfPlot(plot, format) {
  const { data, layout } = specOf(plot);
  const ink = { ...layout.font, color: "#1c2733" };
  const light = { ...layout, font: ink, paper_bgcolor: "#fff", plot_bgcolor: "#fff" };
  const size = { width: 960, height: layout.height, scale: format === "png" ? 2 : 1 };
  const url = await Plotly.toImage({ data, layout: light, config: {} }, { format, ...size });
  if (format === "svg") return new Blob([decodeURIComponent(url.slice(url.indexOf(",") + 1))], { type: "image/svg+xml" });
  const bytes = Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

async function imageOfDrawing(svg, format) {
  const vector = new Blob([new XMLSerializer().serializeToString(svg)], { type: "image/svg+xml" });
  if (format === "svg") return vector;
  const image = new Image();
  image.src = URL.createObjectURL(vector);
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = 2 * svg.viewBox.baseVal.width;
  canvas.height = 2 * svg.viewBox.baseVal.height;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

async function saveFigure(button) {
  const part = button.closest(".part");
  const plot = part.querySelector(".plot");
  const format = button.dataset.save;
  const image = plot ? imageOfPlot(plot, format) : imageOfDrawing(part.querySelector("svg"), format);
  save(`${part.id}.${format}`, await image);
}

// ---- tables

const words = (cell) => cell.textContent.trim().replace(/\s+/g, " ");

function field(text) {
  const safe = /^[=+@\t]/.test(text) ? `'${text}` : text; // no formula for a spreadsheet
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function saveTable(button) {
  const rows = [...button.closest(".part").querySelectorAll("tr")];
  const lines = rows.map((row) => [...row.cells].map((cell) => field(words(cell))).join(","));
  save(`${button.dataset.csv}.csv`, new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
}

// Times of a table may have a unit each; other units are the same in a whole column.
const SECONDS = { ns: 1e-9, us: 1e-6, ms: 1e-3, s: 1 };
const amount = (text) => parseFloat(text) * (SECONDS[text.split(" ")[1]] ?? 1);

function compare(a, b) {
  const [x, y] = [amount(a), amount(b)];
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a.localeCompare(b);
  return x - y;
}

function sortBy(header) {
  const up = header.getAttribute("aria-sort") === "descending" || !header.classList.contains("number");
  const sign = up && header.getAttribute("aria-sort") !== "ascending" ? 1 : -1;
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const body = header.closest("table").tBodies[0];
  const text = (row) => words(row.cells[header.cellIndex]);
  const order = header.classList.contains("number") ? compare : (a, b) => a.localeCompare(b);
  body.append(...[...body.rows].sort((a, b) => sign * order(text(a), text(b))));
}

function makeSortable(header) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = "sort by this column";
  button.textContent = header.textContent;
  button.addEventListener("click", () => sortBy(header));
  header.replaceChildren(button);
}

unpackPlotly().finally(() => document.querySelectorAll(".plot").forEach(draw));
document.querySelectorAll("[data-save]").forEach((button) => button.addEventListener("click", () => saveFigure(button)));
document.querySelectorAll("[data-csv]").forEach((button) => button.addEventListener("click", () => saveTable(button)));
document.querySelectorAll("table.sortable th").forEach(makeSortable);

// In a frame of the dashboard, which makes the frame as high as the page.
if (parent !== window) {
  new ResizeObserver(() => parent.postMessage({ height: document.body.offsetHeight }, "*")).observe(document.body);
}

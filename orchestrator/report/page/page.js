"use strict";
// Sorting, theme, values under the pointer, and the panel of a number. Without it, all is readable.

const root = document.documentElement;

document.querySelector("#theme").addEventListener("click", () => {
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
});

function valueOf(cell) {
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number.parseFloat(text.replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return a.localeCompare(b);
}

// Listeners are on the document: the live page replaces parts of it.
function addSortButtons(part) {
  for (const header of part.querySelectorAll("table.sortable th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
  }
}
addSortButtons(document);

function sortRows(table, header) {
  const isDown = header.getAttribute("aria-sort") === "descending";
  const rows = [...table.tBodies[0].rows];
  // what has no number stays at the end in both directions
  rows.sort((a, b) => {
    const [x, y] = [a, b].map((row) => valueOf(row.cells[header.cellIndex]));
    return compare(x, y) * (isDown && typeof x === typeof y ? -1 : 1);
  });
  table.tBodies[0].append(...rows);
}

document.addEventListener("click", (event) => {
  const header = event.target.closest("table.sortable th");
  if (!header || !event.target.closest("button")) return;
  const table = header.closest("table");
  const isDown = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", isDown ? "descending" : "ascending");
  sortRows(table, header);
});

const panel = document.querySelector("#panel");
document.addEventListener("click", (event) => {
  const link = event.target.closest("a.number");
  const lineage = link && document.querySelector(link.hash);
  if (!lineage || !panel.showModal) return;
  event.preventDefault();
  panel.querySelector("h2").textContent = link.dataset.title;
  const body = panel.querySelector(".body");
  body.replaceChildren(...[...lineage.querySelector(".body").childNodes].map((node) => node.cloneNode(true)));
  panel.showModal();
});
panel.addEventListener("click", (event) => {
  if (event.target === panel || event.target.closest("button, a")) panel.close();
});

const tip = document.querySelector("#tip");
function pointsOf(chart) {
  const line = chart.querySelector("polyline");
  return line.getAttribute("points").split(" ").map((pair) => pair.split(",").map(Number));
}
document.addEventListener("pointermove", (event) => {
  const chart = event.target.closest("svg.chart");
  if (!chart) return;
  const { x0, x1, y0, y1, left, right, top, bottom } = chart.dataset;
  const dot = chart.querySelector("circle");
  const box = chart.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
  const [px, py] = pointsOf(chart).reduce((best, point) =>
    Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best);
  const done = Number(x0) + ((px - left) / (right - left)) * (x1 - x0);
  const value = Number(y0) + ((bottom - py) / (bottom - top)) * (y1 - y0);
  dot.setAttribute("cx", px);
  dot.setAttribute("cy", py);
  dot.style.display = "block";
  tip.textContent = `${Number(done.toPrecision(4))}: ${Number(value.toPrecision(4))}`;
  tip.style.display = "block";
  tip.style.left = `${Math.min(event.pageX + 12, document.body.clientWidth - tip.offsetWidth - 4)}px`;
  tip.style.top = `${event.pageY + 12}px`;
});
document.addEventListener("pointerout", (event) => {
  const chart = event.target.closest("svg.chart");
  if (!chart || chart.contains(event.relatedTarget)) return;
  chart.querySelector("circle").style.display = tip.style.display = "none";
});

function openTarget() {
  const target = location.hash && document.querySelector(CSS.escape ? `[id="${CSS.escape(location.hash.slice(1))}"]` : location.hash);
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", openTarget);
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
openTarget();

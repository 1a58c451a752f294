"use strict";
// Asks the server for what changed and puts it into the page. What the reader has opened, sorted,
// scrolled and focused stays as it is.

const POLL_MS = 2000;
const FIRST_POLL_MS = 400; // until the store was read once
const TIMEOUT_MS = 15000;

const notice = document.querySelector("#notice");
const updated = document.querySelector("#updated");
let since = updated.dataset.since;
let newest = null; // the last answer
let answeredAt = 0; // by the clock of performance.now()
let lostAt = null;

function nowS() {
  return newest.now_s + (performance.now() - answeredAt) / 1000;
}

function ageText(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86400)} d ago`;
}

function timeOfDay(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function showTimes() {
  for (const time of document.querySelectorAll("time[data-clock]")) {
    const ms = Number(time.dataset.clock) * 1000;
    const isToday = new Date(ms).toDateString() === new Date().toDateString();
    setText(time, isToday ? timeOfDay(ms) : new Date(ms).toLocaleString("sv-SE")); // ISO 8601
  }
  if (!newest) return;
  for (const time of document.querySelectorAll("time[data-age]"))
    setText(time, ageText(nowS() - Number(time.dataset.age)));
  if (newest.read_at_s !== null) setText(updated, `updated ${ageText(nowS() - newest.read_at_s)}`);
}

function showNotice() {
  let text = "";
  if (lostAt !== null) text = `connection lost at ${timeOfDay(lostAt)}, trying again`;
  else if (newest?.trouble) {
    const { what, since_s, text: why } = newest.trouble;
    text = `${what} since ${timeOfDay(since_s * 1000)}: ${why}; trying again`;
  }
  setText(notice, text);
  notice.hidden = !text;
}

// --- putting new content into old -------------------------------------------------------------

function keyOf(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return null;
  if (node.id) return `#${node.id}`;
  if (node.tagName !== "DETAILS") return null;
  return `details ${node.querySelector("summary")?.textContent.replace(/[\d.,%]+/g, "").trim()}`;
}

const KEPT = new Set(["open", "aria-sort"]); // what the reader chose

function morphAttributes(old, fresh) {
  for (const { name } of [...old.attributes])
    if (!fresh.hasAttribute(name) && !KEPT.has(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes)
    if (old.getAttribute(name) !== value && !KEPT.has(name)) old.setAttribute(name, value);
}

function partnersOf(old, fresh) {
  const keyed = new Map();
  const others = [];
  for (const node of old.childNodes) {
    const key = keyOf(node);
    if (key && !keyed.has(key)) keyed.set(key, node);
    else others.push(node);
  }
  return [...fresh.childNodes].map((node) => {
    const key = keyOf(node);
    if (key) {
      const found = keyed.get(key);
      keyed.delete(key);
      return [found, node];
    }
    const index = others.findIndex((other) => other.nodeName === node.nodeName);
    return [index < 0 ? undefined : others.splice(0, index + 1).pop(), node];
  });
}

function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.data = fresh.data;
    return;
  }
  morphAttributes(old, fresh);
  const pairs = partnersOf(old, fresh);
  const kept = new Set(pairs.map(([partner]) => partner));
  for (const node of [...old.childNodes]) if (!kept.has(node)) node.remove();
  pairs.forEach(([partner, node], index) => {
    if (partner) morph(partner, node);
    const shown = partner ?? node;
    if (old.childNodes[index] !== shown) old.insertBefore(shown, old.childNodes[index] ?? null);
  });
}

function sectionOf(name) {
  return document.querySelector(`[data-section="${CSS.escape(name)}"]`);
}

function replaceSection(name, html, before) {
  const fresh = document.createElement("template"); // its content is inert
  fresh.innerHTML = `<div class="section">\n${html}</div>`;
  const part = fresh.content.firstChild;
  part.dataset.section = name;
  addSortButtons(part);
  const old = sectionOf(name);
  if (old) morph(old, part);
  else before.after(part);
  for (const header of sectionOf(name).querySelectorAll("table.sortable th[aria-sort]"))
    sortRows(header.closest("table"), header);
}

function show(update) {
  const focused = document.activeElement;
  for (const old of document.querySelectorAll("[data-section]"))
    if (!update.names.includes(old.dataset.section)) old.remove();
  let before = updated;
  for (const name of update.names) {
    if (name in update.sections) replaceSection(name, update.sections[name], before);
    const part = sectionOf(name);
    if (before.nextElementSibling !== part && before !== updated) before.after(part);
    before = part;
  }
  if (focused && focused !== document.activeElement && focused.isConnected)
    focused.focus({ preventScroll: true });
  if (update.title) document.title = update.title;
}

// --- asking -----------------------------------------------------------------------------------

let isAsking = false;

async function ask() {
  if (isAsking) return;
  isAsking = true;
  try {
    const answer = await fetch(`updates?since=${since}`, {
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (answer.status === 401) {
      location.reload(); // the server asks for its token
      return;
    }
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const update = await answer.json();
    newest = update;
    answeredAt = performance.now();
    lostAt = null;
    show(update);
    since = `${update.server}.${update.version}`;
  } catch {
    lostAt ??= Date.now();
  } finally {
    isAsking = false;
  }
  showNotice();
  showTimes();
}

function askAgain() {
  const isEmpty = lostAt === null && newest && newest.read_at_s === null && !newest.trouble;
  setTimeout(() => ask().finally(askAgain), isEmpty ? FIRST_POLL_MS : POLL_MS);
}

showTimes();
setInterval(showTimes, 1000);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) ask();
});
addEventListener("online", () => ask());
ask().finally(askAgain);

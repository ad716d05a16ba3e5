"use strict";
const line = document.getElementById("line");
const link = document.getElementById("link");
let busy = false;
let again = false;

async function refresh() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    const answer = await fetch("/content");
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    line.innerHTML = await answer.text();
    link.textContent = "";
  } catch (error) {
    link.textContent = `not up to date: ${error.message}`;
  }
  busy = false;
  if (again) {
    again = false;
    refresh();
  }
}

const stream = new EventSource("/api/stream");
stream.addEventListener("change", refresh);
stream.addEventListener("error", () => {
  link.textContent = "the line does not answer";
});
stream.addEventListener("open", refresh);
setInterval(refresh, 10000);

line.addEventListener("click", async (event) => {
  const key = event.target.dataset?.retry;
  if (key === undefined) return;
  event.target.disabled = true;
  const path = `/api/units/${encodeURIComponent(key)}/retry`;
  const answer = await fetch(path, { method: "POST", headers: { "x-lekiwi-line": "retry" } });
  if (!answer.ok) link.textContent = await answer.text();
});

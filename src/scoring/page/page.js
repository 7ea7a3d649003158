// Shows what /status says, and scores the row of the form again and again.
"use strict";

const STATUS_MS = 500;
const SCORE_MS = 500;
const SHOWN_MS = 60000;
const names = [
  ...Array.from({ length: 13 }, (_, n) => `I${n + 1}`),
  ...Array.from({ length: 26 }, (_, n) => `C${n + 1}`),
];
const inputs = {};
let history = [];
let model = null;

const byId = (id) => document.getElementById(id);
const digits = (number, places) => (number == null ? "–" : number.toFixed(places));

function say(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function makeForm() {
  // The row may come with the address, as 39 values after "#row=".
  const given = new URLSearchParams(location.hash.slice(1)).get("row");
  const values = given === null ? [] : given.split("\t");
  for (const [place, name] of names.entries()) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.name = name;
    input.value = values[place] ?? "";
    input.addEventListener("input", () => { history = []; });
    label.append(name, input);
    byId("row").append(label);
    inputs[name] = input;
  }
  byId("row").addEventListener("submit", (event) => event.preventDefault());
}

async function answer(path, options) {
  const response = await fetch(path, { cache: "no-store", ...options });
  return [response.status, await response.json()];
}

function showStatus(status) {
  model = status.model;
  const score = status.progressive ?? {};
  say("state", status.fault || (status.version == null ? "No version yet" : "Serving"));
  say("version", status.version == null ? "–" : String(status.version));
  say("published", status.swaps ? `${status.swaps} swaps so far` : "");
  say("age", status.age_ms == null ? "–" : `${digits(status.age_ms / 1000, 1)} s`);
  say("auc", digits(score.auc, 4));
  say("log-loss", digits(score.log_loss, 4));
  say("scored", score.rows ? `of the newest ${score.rows} rows` : "of the newest rows");
  say("requests", String(status.requests));
  say("failed", `${status.failures} failed`);
}

async function followStatus() {
  try {
    const [, status] = await answer("status");
    showStatus(status);
  } catch (error) {
    say("state", "The service does not answer");
  }
  setTimeout(followStatus, STATUS_MS);
}

async function followScore() {
  try {
    if (model !== null) await scoreRow();
  } catch (error) {
    say("fault", "The service does not answer");
  }
  setTimeout(followScore, SCORE_MS);
}

async function scoreRow() {
  const row = names.map((name) => inputs[name].value.trim()).join("\t");
  const [status, body] = await answer(`v1/models/${model}:predict`, {
    method: "POST",
    body: JSON.stringify({ instances: [row] }),
  });
  const found = body.predictions ? body.predictions[0] : body;
  if (status !== 200 || found.error) {
    say("fault", found.error ?? `status ${status}`);
    return;
  }
  say("fault", "");
  say("score", digits(found.probability, 4));
  const now = Date.now();
  history.push([now, found.probability]);
  history = history.filter(([at]) => now - at <= SHOWN_MS);
  draw(now);
}

function draw(now) {
  const scores = history.map(([, score]) => score);
  const middle = (Math.min(...scores) + Math.max(...scores)) / 2;
  const half = Math.max(Math.max(...scores) - middle, 0.005) * 1.1;
  const points = history.map(([at, score]) => {
    const x = 600 - (600 * (now - at)) / SHOWN_MS;
    return `${x.toFixed(1)},${(60 - (55 * (score - middle)) / half).toFixed(1)}`;
  });
  byId("line").setAttribute("points", points.join(" "));
  say("highest", digits(Math.min(middle + half, 1), 3));
  say("lowest", digits(Math.max(middle - half, 0), 3));
}

makeForm();
followStatus();
followScore();

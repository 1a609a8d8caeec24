// The pages work without this; with it they keep up, act, copy and help with the form. No library, nothing inline.
"use strict";

const live = document.getElementById("live");
const say = (text) => { if (live) live.textContent = text; };

// --- the theme of Airflow's UI, where this page is a part of it ---------------------------------------------------
function followTheme() {
  let outer;
  try {
    if (window.parent === window) return;
    outer = window.parent.document.documentElement;
  } catch { return; } // another origin: the system's theme counts
  const apply = () => {
    const told = outer.dataset.theme || (outer.classList.contains("dark") ? "dark" : outer.classList.contains("light") ? "light" : "");
    if (told) document.documentElement.dataset.theme = told;
  };
  apply();
  new MutationObserver(apply).observe(outer, { attributes: true, attributeFilter: ["class", "data-theme"] });
}

// A frame of Airflow's may not leave itself, so its links to Airflow's own pages are followed by the page around it.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-top]");
  if (!link || window.parent === window) return;
  try {
    const outer = window.parent.document;
    const copy = outer.createElement("a");
    copy.href = link.href;
    event.preventDefault();
    outer.body.append(copy);
    copy.click();
    copy.remove();
  } catch { link.target = "_top"; }
});

// --- parts that are fetched again while somebody looks ------------------------------------------------------------
class Part {
  constructor(element) {
    this.element = element;
    this.seconds = Number(element.dataset.seconds) || 10;
    this.tag = "";
    this.timer = 0;
    this.busy = null;
    if ("now" in element.dataset) this.load(); else this.wait();
  }
  get url() {
    const query = "query" in this.element.dataset ? window.location.search : "";
    return this.element.dataset.live + query;
  }
  wait() {
    window.clearTimeout(this.timer);
    if (!document.hidden) this.timer = window.setTimeout(() => this.load(), this.seconds * 1000);
  }
  async load() {
    if (this.busy) this.busy.abort();
    const busy = this.busy = new AbortController();
    const late = window.setTimeout(() => busy.abort(), 30000);
    try {
      const headers = this.tag ? { "If-None-Match": this.tag } : {};
      const answer = await fetch(this.url, { headers, signal: busy.signal, credentials: "same-origin", cache: "no-store" });
      if (answer.status === 401) say("Your login has ended: load the page again.");
      else if (answer.status !== 304) {
        const text = await answer.text();
        if (answer.ok || answer.status === 404) this.show(text, answer);
        if (!answer.ok) say(`Not up to date: ${new DOMParser().parseFromString(text, "text/html").body.textContent.trim()}`);
      }
      if (answer.ok || answer.status === 304) say(`Up to date at ${new Date().toLocaleTimeString()}`);
    } catch (error) {
      if (this.busy === busy) say(`Not up to date: ${error.name === "AbortError" ? "no answer in 30 seconds" : "Airflow does not answer"}.`);
    } finally {
      window.clearTimeout(late);
      if (this.busy === busy) { this.busy = null; this.wait(); }
    }
  }
  show(text, answer) {
    this.tag = answer.headers.get("ETag") || "";
    const focus = document.activeElement && this.element.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const scrolled = [...this.element.querySelectorAll(".wide")].map((one) => one.scrollLeft);
    const open = [...this.element.querySelectorAll("details")].map((one) => one.open);
    this.element.innerHTML = text; // made by our templates, which escape everything
    renewOffers().catch(() => {}); // then the buttons are those of before, and the next poll tries again
    this.element.querySelectorAll(".wide").forEach((one, index) => { one.scrollLeft = scrolled[index] || 0; });
    this.element.querySelectorAll("details").forEach((one, index) => { one.open = open[index] || false; });
    if (focus) [...this.element.querySelectorAll("a[href]")].find((one) => one.getAttribute("href") === focus)?.focus();
  }
}

// Buttons and the box for questions stand outside of what is fetched again, since somebody may be filling them in. They
// are replaced when something else may be done than before, unless a confirmation is open.
const offered = () => document.querySelector("#seen [data-offers]")?.dataset.offers;
let offers = offered();
async function renewOffers() {
  const now = offered();
  if (now === undefined || now === offers || document.querySelector("dialog[open]")) return;
  offers = now;
  const answer = await fetch(window.location.href, { credentials: "same-origin", cache: "no-store" });
  if (!answer.ok) { offers = undefined; return; }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (document.querySelector("dialog[open]")) { offers = undefined; return; }
  document.getElementById("actions").replaceChildren(...page.getElementById("actions").childNodes);
  if (document.getElementById("ask")) return; // what was asked stays
  document.getElementById("asking").replaceChildren(...page.getElementById("asking").childNodes);
  startAsking();
}

function startParts() {
  const parts = new Map();
  document.querySelectorAll("[data-live]").forEach((one) => parts.set(one.id, new Part(one)));
  document.addEventListener("visibilitychange", () => {
    for (const part of parts.values()) if (document.hidden) window.clearTimeout(part.timer); else part.load();
  });
  for (const form of document.querySelectorAll("form[data-search]")) {
    let timer = 0;
    form.addEventListener("input", () => {
      window.clearTimeout(timer);
      timer = window.setTimeout(() => {
        window.history.replaceState(null, "", `?${new URLSearchParams(new FormData(form))}`);
        const part = parts.get(form.dataset.search);
        part.tag = "";
        part.load();
      }, 250);
    });
  }
}

// --- actions ------------------------------------------------------------------------------------------------------
async function send(url, method, body) {
  const answer = await fetch(url, {
    method, credentials: "same-origin", headers: { "Content-Type": "application/json", Accept: "application/json" }, body: JSON.stringify(body),
  });
  const found = await answer.json().catch(() => ({}));
  return { ok: answer.ok, status: answer.status, found, told: [found.detail, found.remedy].filter(Boolean).join(" ") || `Airflow answers ${answer.status}.` };
}

function startActions() {
  const place = document.getElementById("actions");
  if (!place) return;
  place.addEventListener("click", (event) => {
    const opens = event.target.closest("[data-open]");
    if (opens) document.getElementById(opens.dataset.open).showModal();
    if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
  });
  place.addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target, action = form.dataset.action, result = form.querySelector("[data-result]");
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    result.textContent = "Asking ...";
    try {
      const body = { uid: place.dataset.uid, value: form.elements.value.value };
      const gone = action === "delete";
      const done = await send(gone ? place.dataset.workspace : `${place.dataset.workspace}/${action}`, gone ? "DELETE" : "POST", body);
      result.textContent = done.told;
      if (done.ok) window.setTimeout(() => window.location.reload(), 1200); else button.disabled = false;
    } catch { result.textContent = "Airflow does not answer."; button.disabled = false; }
  });
}

// --- asking ---------------------------------------------------------------------------------------------------------
async function* events(response) { // those of a server-sent stream that answers a POST
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

function answerCard(model) {
  const card = element("article"), text = element("p", "...", "said"), note = element("p", "", "note");
  card.append(element("h3", model), text, note);
  card.setAttribute("aria-busy", "true");
  const show = (one) => {
    text.textContent = one.problem ? [one.text, one.problem].filter(Boolean).join("\n") : one.text || (one.done ? "(nothing)" : "...");
    text.className = one.problem ? "faults" : "said";
    note.textContent = `${one.seconds.toFixed(1)} s`;
    card.setAttribute("aria-busy", String(!one.done));
  };
  return { card, show, ended: () => card.getAttribute("aria-busy") === "false" };
}

function startAsking() {
  const form = document.getElementById("ask"), place = document.getElementById("answers");
  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("[type=submit]"), cards = new Map();
    button.disabled = true;
    place.textContent = "Asking ...";
    try {
      const answer = await fetch(form.dataset.ask, {
        method: "POST", credentials: "same-origin", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ question: form.elements.question.value, stream: true }),
      });
      if (!answer.ok) {
        const told = await answer.json().catch(() => ({}));
        place.replaceChildren(element("p", [told.detail, told.remedy].filter(Boolean).join(" ") || `Airflow answers ${answer.status}.`, "faults"));
        return;
      }
      for await (const one of events(answer)) {
        if (Array.isArray(one)) {
          const list = element("div", undefined, "answers");
          for (const model of one) { cards.set(model, answerCard(model)); list.append(cards.get(model).card); }
          place.replaceChildren(list);
        } else cards.get(one.model)?.show(one);
      }
    } catch { if (!cards.size) place.replaceChildren(element("p", "Airflow does not answer.", "faults")); }
    finally {
      button.disabled = false;
      for (const one of cards.values()) if (!one.ended()) { one.card.setAttribute("aria-busy", "false"); one.card.append(element("p", "The answer broke off.", "faults")); }
    }
  });
}

// --- copy ---------------------------------------------------------------------------------------------------------
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.value ?? source.textContent);
  } catch { // no permission, or no secure connection: select it, and copy as in older days
    if (source.select) source.select(); else window.getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  window.setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

// --- the form for a new Workspace ---------------------------------------------------------------------------------
function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function showReport(report) {
  const place = document.getElementById("report"), apply = document.getElementById("apply");
  place.replaceChildren();
  const file = report.files[0], one = file.documents[0];
  const wrong = [
    ...file.problems.map((found) => `Line ${found.line}: ${found.message}`),
    ...(one?.faults ?? []).map((found) => `${found.path}: ${found.message}${found.hint ? ` (${found.hint})` : ""}`),
  ];
  if (wrong.length) {
    const list = element("ul", undefined, "faults");
    wrong.forEach((text) => list.append(element("li", text)));
    place.append(element("p", `${wrong.length} ${wrong.length === 1 ? "thing is" : "things are"} wrong:`), list);
  } else {
    (one?.sentences ?? []).forEach((text) => place.append(element("p", text)));
    (one?.notices ?? []).forEach((text) => place.append(element("p", text, "note")));
  }
  if (apply) apply.disabled = report.exitCode !== 0;
}

function startForm() {
  const form = document.getElementById("draft"), yaml = document.getElementById("yaml");
  if (!form) return;
  let timer = 0, last = "";
  const values = () => Object.fromEntries(new FormData(form));
  const later = (work) => { window.clearTimeout(timer); timer = window.setTimeout(() => work().catch(() => say("Airflow does not answer.")), 350); };

  async function listMachines() {
    const { model, purpose, method, objective } = values(), note = document.getElementById("machine-note");
    const key = `${model} ${purpose} ${method} ${objective}`;
    if (!model || key === last) return;
    last = key;
    const answer = await fetch(`${form.dataset.machines}?${new URLSearchParams({ model, purpose, method, objective })}`, { credentials: "same-origin" });
    const found = await answer.json();
    const select = form.elements.machine, before = select.value;
    select.replaceChildren();
    if (!answer.ok) { note.textContent = found.detail; return; }
    const fits = found.filter((one) => !one.why_not);
    for (const one of fits) {
      const price = one.usd_per_hour === null ? "price not known" : `${one.usd_per_hour.toFixed(2)} USD an hour`;
      const option = element("option", `${one.name} (${one.gpus}; ${price}; ${one.cloud})`);
      option.value = one.name;
      select.append(option);
    }
    if (fits.some((one) => one.name === before)) select.value = before;
    const first = found.find((one) => one.why_not);
    note.textContent = `${fits.length} of ${found.length} machine types hold it${first ? `; ${first.name} ${first.why_not}` : ""}.`;
  }

  function showFields() {
    const purpose = values().purpose;
    form.querySelectorAll("[data-only]").forEach((one) => { one.hidden = one.dataset.only !== purpose; });
    for (const option of form.elements.model.options) option.disabled = purpose === "tune" && option.dataset.tunable === "no";
  }

  async function draw() {
    showFields();
    await listMachines();
    if (!values().model) return;
    const done = await send(form.dataset.draft, "POST", values());
    if (!done.ok) { say(done.told); return; }
    yaml.value = done.found.yaml;
    showReport(done.found.report);
  }

  form.addEventListener("input", () => later(draw));
  form.addEventListener("submit", (event) => event.preventDefault());
  yaml.addEventListener("input", () => later(async () => {
    const done = await send(yaml.dataset.check, "POST", { yaml: yaml.value });
    if (done.ok) showReport(done.found); else say(done.told);
  }));
  document.getElementById("download").addEventListener("click", () => {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([yaml.value], { type: "application/yaml" }));
    link.download = "workspace.yaml";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  const apply = document.getElementById("apply");
  apply?.addEventListener("click", async () => {
    const result = document.getElementById("applied");
    apply.disabled = true;
    result.textContent = "Asking ...";
    const done = await send(apply.dataset.apply, "POST", { yaml: yaml.value }).catch(() => ({ told: "Airflow does not answer." }));
    result.textContent = done.told;
    if (done.found?.report) showReport(done.found.report);
    if (done.ok) window.location.assign(`${apply.dataset.page}/${encodeURIComponent(done.found.namespace)}/${encodeURIComponent(done.found.name)}`);
    else apply.disabled = false;
  });
  later(draw);
}

followTheme();
startParts();
startActions();
startAsking();
startForm();

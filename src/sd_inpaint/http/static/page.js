// The page: a picture, a mask painted over it, a form, and the result.

import { Fields, element } from "./fields.js";
import { Mask } from "./mask.js";
import { Service } from "./service.js";

const KEPT_JOB = "sd-inpaint job"; // in the tab's memory, so that a reload does not lose the job
const KEPT_KEY = "sd-inpaint key";
const HEALTH_MILLISECONDS = 2000;

const $ = (id) => document.getElementById(id);
const service = new Service();
const mask = new Mask($("mask"));
let fields = null;
let picture = null; // the file that is sent
let before = null; // the file that is shown of it
let running = null; // {id, abort} of the job under way
let isReady = false;

// --- messages --------------------------------------------------------------------------------------------------------

function say(text, isWrong = false) {
  $("message").textContent = text;
  $("message").classList.toggle("wrong", isWrong);
}

function complain(error) {
  if (error.status === 401) {
    $("key-field").hidden = false;
    $("key").focus();
  }
  say(error.message, true);
}

function refresh() {
  $("paint").disabled = !(isReady && picture && fields && !running);
  $("undo").disabled = !mask.marks.length;
  $("redo").disabled = !mask.undone.length;
  $("cancel").hidden = !running;
}

function show(name) {
  for (const id of ["drop", "easel", "tools", "result", "outcome"]) $(id).hidden = true;
  for (const id of { nothing: ["drop"], mask: ["easel", "tools"], result: ["result", "outcome"] }[name]) $(id).hidden = false;
}

// --- the picture -----------------------------------------------------------------------------------------------------

/** Puts a file where its bytes can be shown; the address before is given back. */
function setSource(image, file) {
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  return image.decode();
}

/** Shows a file, by the browser's means or else by the service's, which reads more formats. */
async function showFile(image, file) {
  try {
    await setSource(image, file);
    return { shown: file, size: [image.naturalWidth, image.naturalHeight] };
  } catch {
    say("This browser cannot show that file; asking the service…");
    const { file: shown, size } = await service.preview(file);
    await setSource(image, shown);
    return { shown, size };
  }
}

async function open(file) {
  let shown;
  try {
    shown = await showFile($("picture"), file);
  } catch (error) {
    complain(error);
    show(picture ? "mask" : "nothing");
    return;
  }
  picture = file;
  before = shown.shown;
  // As it is shown: turned as the service turns it too.
  mask.reset(...shown.size);
  show("mask");
  say("Paint over the part to replace.");
}

function take(files) {
  const file = [...files].find((each) => each.type.startsWith("image/") || each.type === "");
  if (file) open(file);
}

$("file").addEventListener("change", (event) => { take(event.target.files); event.target.value = ""; });
$("other").addEventListener("click", () => $("file").click());
addEventListener("paste", (event) => take(event.clipboardData.files));
addEventListener("dragover", (event) => { event.preventDefault(); $("stage").classList.add("over"); });
addEventListener("dragleave", () => $("stage").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  take(event.dataTransfer.files);
});

// --- the mask --------------------------------------------------------------------------------------------------------

function setErasing(isErasing) {
  mask.isErasing = isErasing;
  $("erase").setAttribute("aria-pressed", String(isErasing));
}

function setBrush(percent) {
  $("size").value = percent;
  // By its square, so that small brushes can be told apart; the largest is half of the picture.
  mask.brushShare = 0.01 + 0.49 * (Number($("size").value) / 100) ** 2;
}

function moveBrush(event) {
  const shown = mask.canvas.getBoundingClientRect();
  const width = `${mask.shownBrush}px`;
  const place = { left: `${event.clientX - shown.left}px`, top: `${event.clientY - shown.top}px` };
  Object.assign($("brush").style, { width, height: width, ...place });
  $("brush").hidden = event.pointerType === "touch";
}

mask.addEventListener("change", refresh);
mask.canvas.addEventListener("pointermove", moveBrush);
mask.canvas.addEventListener("pointerleave", () => { $("brush").hidden = true; });
$("size").addEventListener("input", () => setBrush($("size").value));
$("erase").addEventListener("click", () => setErasing(!mask.isErasing));
$("undo").addEventListener("click", () => mask.undo());
$("redo").addEventListener("click", () => mask.redo());
$("invert").addEventListener("click", () => mask.add("invert"));
$("clear").addEventListener("click", () => mask.add("clear"));
addEventListener("keydown", (event) => {
  if ($("easel").hidden || event.target.matches("input:not([type=range]), textarea, select")) return;
  const command = event.ctrlKey || event.metaKey;
  if (command && event.key.toLowerCase() === "z") {
    event.preventDefault();
    if (event.shiftKey) mask.redo(); else mask.undo();
  } else if (command || event.altKey) {
    return;
  } else if (event.key === "[" || event.key === "]") {
    setBrush(Number($("size").value) + (event.key === "]" ? 5 : -5));
  } else if (event.key === "e") {
    setErasing(!mask.isErasing);
  }
});

// --- painting --------------------------------------------------------------------------------------------------------

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return `, about ${Math.max(1, Math.round(seconds))} s left`;
  return `, about ${Math.round(seconds / 60)} min left`;
}

function showProgress(name, data) {
  $("progress").hidden = false;
  if (name === "preview") {
    $("preview").src = data.image;
    $("preview").hidden = false;
    return;
  }
  const isRunning = data.step > 0;
  if (isRunning) Object.assign($("bar"), { max: data.steps, value: data.step });
  else $("bar").removeAttribute("value");
  const place = data.queue_position ? `Waiting, ${data.queue_position} ahead of this one` : "Waiting for the device";
  $("step").textContent = (isRunning ? `Step ${data.step} of ${data.steps}` : place) + duration(data.seconds_left);
}

async function follow(id) {
  running = { id, abort: new AbortController() };
  sessionStorage.setItem(KEPT_JOB, id);
  $("preview").hidden = true;
  refresh();
  try {
    const job = await service.follow(id, showProgress, running.abort.signal);
    if (job.state === "failed") say(job.error.error, true);
    else if (job.state === "cancelled") say("Cancelled.");
    else await showResult(await service.result(id));
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  } finally {
    sessionStorage.removeItem(KEPT_JOB);
    running = null;
    $("progress").hidden = true;
    refresh();
  }
}

async function paint(event) {
  event.preventDefault();
  if ($("paint").disabled) return;
  if (mask.isEmpty) {
    say("First paint over the part to replace.", true);
    return;
  }
  say("");
  $("paint").disabled = true;
  let job;
  try {
    const form = new FormData();
    form.append("image", picture, picture.name || "picture");
    form.append("mask", await mask.file(), "mask.png");
    fields.fill(form);
    job = await service.submit(form, crypto.randomUUID?.() ?? String(Math.random()));
  } catch (error) {
    complain(error);
    refresh();
    return;
  }
  await follow(job.id);
}

$("form").addEventListener("submit", paint);
// An invalid field in a closed section could not be shown.
$("more-fields").addEventListener("invalid", () => { $("more-fields").parentElement.open = true; }, true);
$("cancel").addEventListener("click", async () => {
  const { id, abort } = running;
  abort.abort();
  try {
    await service.cancel(id);
    say("Cancelled.");
  } catch (error) {
    complain(error);
  }
});

// --- the result ------------------------------------------------------------------------------------------------------

function asFile({ image, media_type: type, seed }) {
  const bytes = Uint8Array.from(atob(image), (letter) => letter.charCodeAt(0));
  return new File([bytes], `painted-${seed}.png`, { type });
}

let chosen = null; // the picture that is shown, as a file

async function choose(file, seed) {
  chosen = file;
  await setSource($("after"), file);
  $("download").href = $("after").src;
  $("download").download = file.name;
  say(`Seed ${seed}.`);
}

async function showResult(results) {
  const files = results.map(asFile);
  $("choices").replaceChildren();
  if (files.length > 1) {
    files.forEach((file, i) => {
      const button = element("button", { type: "button", title: `Seed ${results[i].seed}` });
      const image = element("img", { alt: `Picture ${i + 1}`, src: URL.createObjectURL(file) });
      button.append(image);
      button.addEventListener("click", () => choose(file, results[i].seed));
      $("choices").append(button);
    });
  }
  $("before").hidden = $("compare").parentElement.hidden = $("back").hidden = !picture;
  if (picture) await setSource($("before"), before);
  await choose(files[0], results[0].seed);
  compare(0);
  show("result");
}

function compare(percent) {
  $("compare").value = percent;
  $("before").style.setProperty("--shown", `${percent}%`);
}

$("compare").addEventListener("input", () => compare($("compare").value));
$("back").addEventListener("click", () => { show("mask"); say(""); });
$("onward").addEventListener("click", () => open(chosen));

// --- the start -------------------------------------------------------------------------------------------------------

async function describe() {
  const info = await service.info();
  fields ??= new Fields(info.parameters, $("main-fields"), $("more-fields"));
  $("model").textContent = info.device ? `${info.model} on ${info.device}` : info.model;
}

async function watch() {
  for (;;) {
    const trouble = await service.trouble();
    isReady = !trouble;
    if (isReady) break;
    complain(trouble);
    await new Promise((resolve) => { setTimeout(resolve, HEALTH_MILLISECONDS); });
  }
  try {
    await describe();
    say(picture ? "" : "Ready.");
  } catch (error) {
    complain(error);
  }
  refresh();
  const kept = sessionStorage.getItem(KEPT_JOB);
  if (kept && fields && !running) await follow(kept);
}

$("key").addEventListener("change", () => {
  service.apiKey = $("key").value.trim();
  sessionStorage.setItem(KEPT_KEY, service.apiKey);
  say("");
  watch();
});

service.apiKey = sessionStorage.getItem(KEPT_KEY) ?? "";
setBrush(30);
show("nothing");
refresh();
watch();

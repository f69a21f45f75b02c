// The page: puts its parts together.

import { Comparison } from "./comparison.js";
import { Documents } from "./documents.js";
import { $, all, aria, element, hasFingers, newKey, on, pause, takesText } from "./dom.js";
import { Extension } from "./extension.js";
import { Gestures } from "./gestures.js";
import { drawIcons } from "./icons.js";
import { Job } from "./job.js";
import { markOfFile, markOfTransparency } from "./mask.js";
import { say, settle, warn } from "./notice.js";
import { read, watchField, watchFiles } from "./opening.js";
import { Picture, clamp, stemOf } from "./picture.js";
import { Progress } from "./progress.js";
import { Results, describe, fileOf, save } from "./results.js";
import { listSamples, showAbility } from "./samples.js";
import { Service } from "./service.js";
import { Settings } from "./settings.js";
import { listen } from "./shortcuts.js";
import { Store } from "./store.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";
import { explain } from "./words.js";

const KEPT_KEY = "sd-inpaint key";
const HEALTH_MILLISECONDS = 2000;
const ZOOM_STEP = 1.25;
const EXTENDING = { title: "Extend the picture", prompt: "continuation of the scene, seamless", negative: "cut off, border, edge", tool: "extend" };
const IDEAS = [ // the API guide's use cases
	{ title: "Remove an object", prompt: "empty background, natural scene", negative: "object, person, watermark" },
	{ title: "Replace an object", prompt: "a red sports car", negative: "old car, damaged" },
	EXTENDING,
	{ title: "Change a face or a detail", prompt: "smiling face, happy expression", negative: "sad, angry, distorted" },
];

const service = new Service();
const store = new Store();
const documents = new Documents(showDocument, () => { view.draw("mask"); settle("mask"); refresh(); store.save(); });
const results = new Results(showResult);
const settings = new Settings(() => { settle("settings"); store.save(); });
const view = new View(insets);
const tools = new Tools(view);
const comparison = new Comparison(view);
const progress = new Progress(view);
const extension = new Extension(view);
const gestures = new Gestures($.surface, view, tools);
let job; // that is under way
let limits;
let isReady = false;
let kept; // what was kept before, until the page has taken it up

const isNarrow = () => matchMedia("(max-width: 760px)").matches;
const mode = () => document.body.dataset.mode;
const focusOn = (id) => $[id].focus({ preventScroll: true });

// What covers the stage's edges, left, top, right and bottom, so that a fitted picture lies beside it.
function insets() {
	const top = Math.max(44, $.options.offsetHeight) + 20;
	if (isNarrow()) return [8, top, 8, 62];
	if (innerHeight <= 560) return [118, top - 8, 12, $.ask.offsetHeight + 14];
	// A line above the prompt comes and goes; the picture stays where it is.
	return [84, top + 8, 24, $.prompt.offsetHeight + 112];
}

// --- what is shown ---------------------------------------------------------------------------------------------------

function show(name) {
	tools.end(); // a mark that is being made is of what was shown before
	document.body.dataset.mode = name;
	$.surface.hidden = name === "empty";
	$.outcome.hidden = name !== "result";
	refresh();
}

function refresh() {
	const { picture, current } = documents, { chosen } = results, isResult = mode() === "result";
	$.undo.disabled = !isResult && !documents.canUndo;
	$.redo.disabled = isResult || !documents.canRedo;
	$.paint.disabled = !isReady || !current || Boolean(job);
	$.again.disabled = Boolean(job) || !isReady;
	progress.isSeen = Boolean(job) && !isResult && documents.isAt(job.request.document);
	document.body.toggleAttribute("data-busy", progress.isSeen);
	$.recall.hidden = !chosen;
	if (chosen) $["recall-text"].textContent = `${chosen.count > 1 ? `${chosen.index + 1} of ${chosen.count}. ` : ""}${describe(chosen)}. `;
	$.name.textContent = picture ? `${current.name} · ${picture.size.join(" × ")}` : "";
}

function showDocument() {
	const { current, picture, mask } = documents;
	leaveExtending();
	results.choose(null);
	show("mask");
	view.show(picture, mask);
	$["about-picture"].textContent = `${current.name}, ${picture.size.join(" by ")} pixels.`;
	store.save();
}

async function showResult(result, isNew = false) {
	const { file, request: { document: sent } } = result;
	const before = await documents.goTo(sent) ? documents.picture : await Picture.open(sent);
	const picture = await Picture.open({ file });
	leaveExtending();
	results.choose(result);
	view.split = 0;
	show("result");
	view.show(picture, null, before);
	$.divider.hidden = false;
	if (isNew) comparison.sweep();
	store.save();
}

function leaveExtending() {
	extension.close();
	if (tools.name === "extend") tools.choose("brush");
}

function complain(error, retry) {
	if (error.code === "unauthorized") return askForKey();
	say(explain(error), { tone: "wrong", action: retry && { text: "Try again", act: retry } });
}

// What may fail, and then says so.
const attempting = (act) => (...given) => act(...given).catch(complain);

// --- the picture and its mask ----------------------------------------------------------------------------------------

async function openRecord({ record, picture }, words) {
	const action = documents.current && { text: "Undo", act: undo };
	await documents.open(record, picture);
	if (words || action) say(words || `Opened “${record.name}”.`, { topic: "opening", action });
	else settle("opening");
	if (!takesText(document.activeElement)) focusOn("surface");
}

async function open(file) {
	const opened = await read(file, service, limits);
	if (opened) await openRecord(opened);
}

async function addMask(make) {
	try {
		const mark = await make();
		if (mark) documents.mask.add(mark);
		else warn("Nothing in this picture is transparent.");
	} catch (error) {
		warn(error.name === "Error" ? error.message : "That file could not be read as a mask.");
	}
}

async function undo() {
	tools.end();
	if (mode() === "result") await back();
	else await documents.undo();
}

async function back() {
	const { document: sent } = results.chosen.request;
	if (await documents.goTo(sent)) showDocument();
	else await documents.open(sent);
}

async function goOn() {
	const { file, request } = results.chosen, record = { file, name: `${stemOf(request.document.name)}.png` };
	await openRecord({ record, picture: view.picture }, "The result is your picture now.");
}

function chooseTool(name) {
	if (mode() !== "mask") return;
	if (name !== "extend") extension.close();
	tools.choose(name);
	if (name === "extend") extension.open();
}

const extend = attempting(async () => {
	const [width, height] = extension.size;
	if (width * height > limits?.max_pixels) return complain({ code: "image_too_large" });
	$["extend-apply"].disabled = true;
	await openRecord(await extension.make(), "Extended. The new part and a strip of the old one are masked.");
	if (!settings.get("prompt")) useIdea(EXTENDING);
});

function useIdea({ prompt, negative, tool }) {
	settings.set("prompt", prompt);
	settings.set("negative_prompt", negative);
	settings.changed();
	if (tool && mode() === "mask" && documents.mask.marks.at(-1)?.kind !== "border") chooseTool(tool);
	else $.prompt.select();
}

// --- painting --------------------------------------------------------------------------------------------------------

const paint = attempting(async () => {
	if ($.paint.disabled) return;
	const wrong = settings.invalid();
	if (wrong) {
		showSettings(true);
		if ($["more-fields"].contains(wrong)) $.more.open = true;
		wrong.focus();
		const { min, max } = wrong, label = wrong.closest("label")?.querySelector("span")?.textContent;
		return warn(min && max ? `“${label}” goes from ${min} to ${max}.` : `“${label}” needs another value.`, "settings");
	}
	if (mode() === "result") return start({ ...results.chosen.request, values: settings.values() });
	if (documents.mask.isEmpty) return warn("First mark the part of the picture that should change.", "mask");
	const { mask, current: { key, file, shown, size, name } } = documents;
	$.paint.disabled = true; // making the mask's file takes a while
	await start({ document: { key, file, shown, size, name, marks: mask.stored.marks }, mask: await mask.file().finally(refresh), values: settings.values() });
});

// The same again with a new seed.
function again() {
	const { request } = results.chosen;
	settings.isSeedKept = false;
	const { seed } = settings.values();
	return start({ ...request, values: { ...request.values, seed } });
}

function start(request) {
	say("");
	return run({ ...request, key: newKey() + newKey(), id: null });
}

async function run(request) {
	job = new Job(service, request, (name, data) => {
		if (name === "accepted") store.saveNow();
		progress.show(name, data);
	});
	refresh();
	await progress.begin(request);
	if (mode() === "result" && await documents.goTo(request.document)) showDocument();
	refresh();
	$.cancel.focus();
	store.saveNow();
	try {
		const files = await job.run();
		if (files) await finish(request, files);
		else say("Cancelled.");
	} catch (error) {
		complain(error, () => start(request));
	}
	const isFocusLost = [$.cancel, document.body].includes(document.activeElement);
	job = null;
	progress.end();
	refresh();
	if (isFocusLost) focusOn(mode() === "result" ? "divider" : "surface");
	store.save();
}

async function finish(request, files) {
	const first = await results.add(request, files), isHere = documents.isAt(request.document);
	job = null;
	if (isHere) await showResult(first, true);
	if (files[0].warning) warn("The mask has no white: it was repainted in part, if at all.");
	else if (isHere) say("");
	else say(`“${request.document.name}” is done.`, { tone: "good", action: { text: "Show it", act: () => showResult(first) } });
}

function cancel() {
	job?.cancel().catch((error) => { if (error.code !== "job_not_found") complain(error); });
}

// --- results ---------------------------------------------------------------------------------------------------------

const download = attempting(async (format) => {
	const { file, name } = await fileOf(results.chosen, format, service);
	save(file, name);
});

async function copy() {
	try {
		await navigator.clipboard.write([new ClipboardItem({ "image/png": results.chosen.file })]);
		say("Copied.", { tone: "good" });
	} catch {
		warn("This browser lets no page copy a picture. Download it instead.");
	}
}

// Does something with the result that is shown; false, if none is.
const ofResult = (act) => () => mode() === "result" && act();

const neighbour = (step) => ofResult(() => {
	const next = results.neighbour(step);
	return Boolean(next) && showResult(next);
});

// --- the server ------------------------------------------------------------------------------------------------------

function askForKey() {
	$["key-field"].hidden = false;
	$["asked-key"].value = "";
	if (!$["ask-key"].open) $["ask-key"].showModal();
	$["asked-key"].focus();
}

function takeKey(key) {
	service.apiKey = $.key.value = key.trim();
	sessionStorage.setItem(KEPT_KEY, service.apiKey);
	return connect();
}

// Waits until the server serves, and learns what it can do.
async function connect() {
	for (;;) {
		const trouble = await service.trouble();
		if (!trouble) break;
		isReady = false;
		refresh();
		if (trouble.code === "unauthorized") return askForKey();
		say(explain(trouble), { topic: "health", tone: trouble.isPassing ? "" : "wrong" });
		await pause(HEALTH_MILLISECONDS);
	}
	try {
		const info = await service.info();
		limits = info.limits;
		settings.describe(info);
		showAbility(info.subjects, (name) => { setPrompt(name); if (mode() !== "empty") $.prompt.focus(); });
		$.model.textContent = info.device ? `${info.model} on ${info.device}` : info.model;
		isReady = true;
		settle("health");
	} catch (error) {
		complain(error, connect);
	}
	refresh();
}

// --- what is kept ----------------------------------------------------------------------------------------------------

function everything() {
	return {
		documents: documents.stored, results: results.all, running: job?.request ?? kept?.running, chosen: results.chosen?.key,
		values: kept?.values ?? { ...settings.changes, prompt: settings.get("prompt"), seed: settings.get("seed") },
		isSeedKept: kept?.isSeedKept ?? settings.isSeedKept,
		brush: [tools.size, tools.softness], isPanelOpen: !$.settings.hidden,
	};
}

async function restore() {
	setBrush(...kept.brush);
	showSettings(kept.isPanelOpen);
	$.prompt.value = kept.values.prompt ?? "";
	results.restore(kept.results);
	await documents.restore(kept.documents.all, kept.documents.at).catch(() => {});
	const chosen = results.all.find(({ key }) => key === kept.chosen);
	if (chosen) await showResult(chosen).catch(() => {});
}

// --- controls --------------------------------------------------------------------------------------------------------

function setPrompt(text) {
	settings.set("prompt", text);
	settings.refresh();
}

function setBrush(size, softness = tools.softness) {
	Object.assign(tools, { size: clamp(Math.round(size), 4, 240), softness });
	$.size.value = tools.size;
	$.softness.value = softness * 100;
	tools.showRing();
}

function showSettings(isOpen) {
	$.settings.hidden = !isOpen;
	aria($["settings-toggle"], { expanded: isOpen });
}

function toggleSettings() {
	const isOpen = $.settings.hidden;
	showSettings(isOpen);
	$[isOpen ? "settings-close" : "settings-toggle"].focus();
	store.save();
}

const adding = (kind) => () => { if (mode() === "mask") documents.mask.add({ kind }); };
const zooming = (factor) => () => view.zoom(view.scale * factor);

const clicks = {
	undo, back, again, copy, cancel, use: goOn, redo: () => documents.redo(), help: () => $.shortcuts.showModal(),
	"zoom-in": zooming(ZOOM_STEP), "zoom-out": zooming(1 / ZOOM_STEP), fit: () => (view.isFitted ? view.zoom(1) : view.fit()),
	"settings-toggle": toggleSettings, "settings-close": toggleSettings,
	invert: adding("invert"), clear: adding("clear"), fill: adding("fill"), "mask-open": () => $["mask-file"].click(),
	"mask-alpha": () => addMask(() => markOfTransparency(documents.picture.levels[0])),
	"mask-save": async () => save(await documents.mask.file(), `${stemOf(documents.picture.name)}-mask.png`),
	"extend-apply": extend, "extend-cancel": () => chooseTool("brush"),
	reuse: () => { settings.apply({ ...results.chosen.request.values, seed: results.chosen.seed }); $.prompt.focus(); },
};
for (const [id, act] of Object.entries(clicks)) $[id].onclick = () => act();
for (const button of all("#tools [data-tool]")) button.onclick = () => chooseTool(button.dataset.tool);
for (const button of all("[data-format]")) button.onclick = () => download(button.dataset.format);
for (const button of all("[data-close]")) button.onclick = () => button.closest("dialog").close();
$["idea-list"].append(...IDEAS.map((idea) => element("button", { type: "button", onclick: () => useIdea(idea) },
	element("span", {}, idea.title, element("small", { textContent: idea.prompt })))));
for (const menu of all(".menu")) {
	menu.onclick = ({ target }) => { if (target.closest("button")) menu.open = false; };
	on(window, "pointerdown", ({ target }) => { if (!menu.contains(target)) menu.open = false; });
}
for (const id of ["size", "softness"]) {
	$[id].oninput = () => { tools.forgetPlace(); setBrush(Number($.size.value), $.softness.value / 100); };
	$[id].onchange = () => { tools.showRing(false); store.save(); };
}
$.ask.onsubmit = (event) => { event.preventDefault(); paint(); };
$.prompt.oninput = () => { settings.refresh(); store.save(); };
$.key.onchange = () => takeKey($.key.value);
$["key-form"].onsubmit = () => takeKey($["asked-key"].value);
on(view, "change", () => { $.percent.textContent = `${Math.round(view.scale * 100)} %`; });
on(window, "pagehide", () => store.saveNow());
watchField($["mask-file"], (file) => addMask(() => markOfFile(file, documents.picture.size)));
watchFiles(open);

listen([
	["ctrl+enter", "Paint", paint], ["esc", "Cancel, go back, or close", escape], ["ctrl+y", "", clicks.redo],
	["[", "Smaller brush", () => setBrush(tools.size / 1.2)], ["]", "Larger brush", () => setBrush(tools.size * 1.2 + 1)],
	["0", "Fit to the window", () => view.fit()], ["1", "100 %", () => view.zoom(1)], ["=", "", clicks["zoom-in"]], ["-", "", clicks["zoom-out"]],
	["\\", "Hold to see the picture before", () => comparison.hold(true)], ["ctrl+c", "Copy the result", ofResult(() => !String(getSelection()) && copy())],
	["d", "Download", ofResult(() => download("png"))], ["left", "Newer result", neighbour(-1)], ["right", "Older result", neighbour(1)],
]);
on(window, "keyup", ({ key }) => { if (key === "\\") comparison.hold(false); });
on(window, "keydown keyup", (event) => {
	if (event.key !== " " || ![$.surface, document.body].includes(event.target)) return;
	event.preventDefault();
	gestures.isSpaceHeld = event.type === "keydown";
	$.surface.classList.toggle("moving", gestures.isSpaceHeld);
});

function escape() {
	const menu = document.querySelector(".menu[open]");
	if (menu) menu.open = false;
	else if (tools.name === "extend") chooseTool("brush");
	else if (job) cancel();
	else if (mode() === "result") back();
	else if (isNarrow() && !$.settings.hidden) toggleSettings();
}

// --- the start -------------------------------------------------------------------------------------------------------

async function begin() {
	drawIcons();
	service.apiKey = $.key.value = sessionStorage.getItem(KEPT_KEY) ?? "";
	setBrush(hasFingers() ? 40 : 48, 0);
	tools.choose("brush");
	tools.showRing(false);
	refresh();
	listSamples(async (load) => {
		try {
			const { values, ...opened } = await load();
			await openRecord(opened);
			settings.apply(values, false);
		} catch {
			warn("The sample could not be loaded.");
		}
	});
	connect();
	kept = await store.open(everything);
	if (!kept) return;
	await restore();
	while (!isReady) await pause(200); // the settings' fields come from the server, perhaps after it was given a key
	const { running, values, isSeedKept } = kept;
	kept = null;
	settings.apply({ ...values, prompt: $.prompt.value }, isSeedKept);
	if (running && !job) await run(running);
}

begin();

// The page: puts its parts together.

import { Comparison } from "./comparison.js";
import { Documents } from "./documents.js";
import { $, element, pause, takesText } from "./element.js";
import { Extension } from "./extension.js";
import { Gestures } from "./gestures.js";
import { drawIcons } from "./icons.js";
import { Job } from "./job.js";
import { markOfFile, markOfTransparency } from "./mask.js";
import { say, settle } from "./notice.js";
import { read, watchFiles } from "./opening.js";
import { Picture } from "./picture.js";
import { Progress } from "./progress.js";
import { Results, fileOf, save } from "./results.js";
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
const IDEAS = [ // the API guide's use cases
	{ title: "Remove an object", prompt: "empty background, natural scene", negative: "object, person, watermark" },
	{ title: "Replace an object", prompt: "a red sports car", negative: "old car, damaged" },
	{ title: "Extend the picture", prompt: "continuation of the scene, seamless", negative: "cut off, border, edge", tool: "extend" },
	{ title: "Change a face or a detail", prompt: "smiling face, happy expression", negative: "sad, angry, distorted" },
];

const announce = (text) => { $("about-picture").textContent = text; };
const service = new Service();
const store = new Store();
const documents = new Documents();
const results = new Results();
const settings = new Settings();
const view = new View($("stage"), $("picture"), $("mask"), insets);
const tools = new Tools(view, (text) => { $("tool-status").textContent = text; });
const comparison = new Comparison(view);
const progress = new Progress(view);
const extension = new Extension(view);
const gestures = new Gestures($("surface"), view, tools);
let job = null; // that is under way
let limits = null;
let isReady = false;
let kept = null; // what was kept before, until the page has taken it up

const isNarrow = () => matchMedia("(max-width: 760px)").matches;
const mode = () => document.body.dataset.mode;
const isBusyHere = () => Boolean(job) && documents.current?.key === job.request.document.key;

// What covers the stage's edges, so that a fitted picture lies beside it.
function insets() {
	const top = Math.max(44, $("options").offsetHeight) + 20;
	if (innerHeight <= 560 && !isNarrow()) return { left: 118, top: top - 8, right: 12, bottom: $("ask").offsetHeight + 14 };
	// A line above the prompt comes and goes; the picture stays where it is.
	return isNarrow() ? { left: 8, top, right: 8, bottom: 62 } : { left: 84, top: top + 8, right: 24, bottom: $("prompt").offsetHeight + 112 };
}

// --- what is shown ---------------------------------------------------------------------------------------------------

function show(name) {
	document.body.dataset.mode = name;
	$("surface").hidden = name === "empty";
	$("outcome").hidden = name !== "result";
	refresh();
}

function refresh() {
	const isResult = mode() === "result";
	$("undo").disabled = !(isResult || documents.canUndo);
	$("redo").disabled = isResult || !documents.canRedo;
	$("paint").disabled = !(isReady && documents.current && !job);
	$("again").disabled = Boolean(job) || !isReady;
	if (isBusyHere() && !isResult) document.body.dataset.busy = "";
	else delete document.body.dataset.busy;
	progress.isSeen = isBusyHere() && !isResult;
	const chosen = isResult ? results.chosen : null;
	$("recall").hidden = !chosen;
	if (chosen) {
		const { prompt } = chosen.request.values, which = chosen.count > 1 ? `${chosen.index + 1} of ${chosen.count}. ` : "";
		$("recall-text").textContent = `${which}${prompt ? `“${prompt}”` : "Removal"}, seed ${chosen.seed}.`;
	}
	const { picture } = documents;
	$("name").textContent = picture ? `${documents.current.name} · ${picture.size.join(" × ")}` : "";
}

function showDocument() {
	extension.close();
	if (tools.name === "extend") tools.choose("brush");
	results.choose(null);
	show("mask");
	view.show(documents.picture, documents.mask);
	announce(`${documents.current.name}, ${documents.picture.size.join(" by ")} pixels.`);
	store.save();
}

async function showResult(result, isNew = false) {
	const { document: sent } = result.request;
	if (documents.current?.key !== sent.key) await documents.goTo(sent.key);
	const before = documents.current?.key === sent.key ? documents.picture : await Picture.open(sent);
	const picture = await Picture.open({ file: result.file, shown: result.file, name: sent.name });
	if (tools.name === "extend") chooseTool("brush");
	results.choose(result);
	view.split = 0;
	show("result");
	view.show(picture, null, before);
	$("divider").hidden = false;
	if (isNew) comparison.sweep();
	store.save();
}

function complain(error, retry = null) {
	if (error.code === "unauthorized") return askForKey();
	say(explain(error), { tone: "wrong", action: retry ? { text: "Try again", act: retry } : undefined });
}

// --- the picture and its mask ----------------------------------------------------------------------------------------

async function openRecord({ record, picture }, words = "") {
	const replaces = Boolean(documents.current);
	await documents.open(record, picture);
	if (words || replaces) say(words || `Opened “${record.name}”.`, { topic: "opening", action: replaces ? { text: "Undo", act: undo } : undefined });
	else settle("opening");
	if (!takesText(document.activeElement)) $("surface").focus({ preventScroll: true });
}

async function open(file) {
	const opened = await read(file, service, limits);
	if (opened) await openRecord(opened);
}

async function addMask(make, missing) {
	try {
		const mark = await make();
		if (mark) documents.mask.add(mark);
		else say(missing, { tone: "wrong" });
	} catch (error) {
		say(error.code || error.name !== "Error" ? "That file could not be read as a mask." : error.message, { tone: "wrong" });
	}
}

async function undo() {
	if (mode() === "result") await back();
	else await documents.undo();
}

async function back() {
	const { document: sent } = results.chosen.request;
	if (documents.current?.key === sent.key || await documents.goTo(sent.key)) showDocument();
	else await documents.open(sent);
}

async function goOn() {
	const { file, request } = results.chosen, name = request.document.name.replace(/\.[^.]*$/, "") + ".png";
	await openRecord({ record: { file, shown: file, name }, picture: view.picture }, "The result is your picture now.");
}

function chooseTool(name) {
	if (mode() !== "mask") return;
	if (name !== "extend") extension.close();
	tools.choose(name);
	if (name === "extend") extension.open();
}

async function extend() {
	try {
		if (limits && extension.size[0] * extension.size[1] > limits.max_pixels) throw Object.assign(new Error(), { code: "image_too_large", facts: {} });
		$("extend-apply").disabled = true;
		await openRecord(await extension.make(), "Extended. The new part and a strip of the old one are masked.");
		if (!settings.get("prompt")) useIdea(IDEAS[2]);
	} catch (error) {
		complain(error);
	}
}

function useIdea({ prompt, negative, tool }) {
	settings.set("prompt", prompt);
	settings.set("negative_prompt", negative);
	settings.refresh();
	store.save();
	if (tool && mode() === "mask" && documents.mask.marks.at(-1)?.kind !== "border") chooseTool(tool);
	else $("prompt").select();
}

// --- painting --------------------------------------------------------------------------------------------------------

async function paint() {
	if ($("paint").disabled) return;
	const wrong = settings.invalid();
	if (wrong) {
		$("settings").hidden = false;
		if ($("more-fields").contains(wrong)) $("more").open = true;
		wrong.focus();
		const { min, max } = wrong, label = wrong.closest("label")?.querySelector("span")?.textContent;
		return say(min && max ? `“${label}” goes from ${min} to ${max}.` : `“${label}” needs another value.`, { tone: "wrong", topic: "settings" });
	}
	if (mode() === "result") return start({ ...results.chosen.request, values: settings.values() });
	if (documents.mask.isEmpty) return say("First mark the part of the picture that should change.", { tone: "wrong", topic: "mask" });
	try {
		const { marks } = documents.mask.stored, { key, file, shown, size, name } = documents.current;
		await start({ document: { key, file, shown, size, name, marks }, mask: await documents.mask.file(), values: settings.values() });
	} catch (error) {
		complain(error);
	}
}

// The same again with a new seed.
function again() {
	const { request } = results.chosen;
	settings.isSeedKept = false;
	const { seed } = settings.values();
	return start({ ...request, values: { ...request.values, seed } });
}

async function start({ document: sent, mask, values }) {
	say("");
	await run({ key: Math.random().toString(36).slice(2) + Date.now().toString(36), id: null, document: sent, mask, values });
}

async function run(request) {
	job = new Job(service, request);
	await progress.begin(request);
	if (mode() === "result" && await documents.goTo(request.document.key)) showDocument();
	refresh();
	$("cancel").focus();
	store.saveNow();
	job.addEventListener("progress", ({ detail: { name, data } }) => {
		if (name === "accepted") store.saveNow();
		progress.show(name, data, isBusyHere() && mode() !== "result");
	});
	try {
		const files = await job.run();
		if (files) await finish(request, files);
		else say("Cancelled.");
	} catch (error) {
		complain(error, () => start(request));
	}
	end();
}

async function finish(request, files) {
	const first = await results.add(request, files), isHere = isBusyHere();
	job = null;
	if (isHere) await showResult(first, true);
	if (files[0].warning) say("The mask is so faint that nothing was repainted.", { tone: "wrong" });
	else if (isHere) say("");
	else say(`“${request.document.name}” is done.`, { tone: "good", action: { text: "Show it", act: () => showResult(first) } });
}

function end() {
	const isFocusLost = [$("cancel"), document.body].includes(document.activeElement);
	job = null;
	progress.end();
	refresh();
	if (isFocusLost) $(mode() === "result" ? "divider" : "surface").focus({ preventScroll: true });
	store.save();
}

async function cancel() {
	try {
		await job?.cancel();
	} catch (error) {
		if (error.code !== "job_not_found") complain(error);
	}
}

// --- results ---------------------------------------------------------------------------------------------------------

async function download(format) {
	$("download-menu").open = false;
	try {
		const { file, name } = await fileOf(results.chosen, format, service);
		save(file, name);
	} catch (error) {
		complain(error);
	}
}

async function copy() {
	if (mode() !== "result" || String(getSelection())) return false;
	try {
		await navigator.clipboard.write([new ClipboardItem({ "image/png": results.chosen.file })]);
		say("Copied.", { tone: "good" });
	} catch {
		say("This browser does not let the page copy a picture here. Download it instead.", { tone: "wrong" });
	}
	return true;
}

function neighbour(step) {
	const next = mode() === "result" ? results.neighbour(step) : null;
	return next ? showResult(next) : false;
}

// --- the server ------------------------------------------------------------------------------------------------------

function askForKey() {
	$("key-field").hidden = false;
	$("asked-key").value = "";
	if (!$("ask-key").open) $("ask-key").showModal();
	$("asked-key").focus();
}

function takeKey(key) {
	service.apiKey = key.trim();
	$("key").value = service.apiKey;
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
		say(explain(trouble), { topic: "health", tone: trouble.isPassing ? undefined : "wrong" });
		await pause(HEALTH_MILLISECONDS);
	}
	try {
		const info = await service.info();
		limits = info.limits;
		settings.describe(info);
		showAbility(info.subjects, (name) => { settings.set("prompt", name); settings.refresh(); if (mode() !== "empty") $("prompt").focus(); });
		$("model").textContent = info.device ? `${info.model} on ${info.device}` : info.model;
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
		documents: documents.stored, results: results.all, running: (job ?? { request: kept?.running }).request ?? null, chosen: results.chosen?.key ?? null,
		values: kept?.values ?? { ...settings.changed(), prompt: settings.get("prompt"), seed: settings.get("seed") },
		isSeedKept: kept?.isSeedKept ?? settings.isSeedKept,
		brush: [tools.size, tools.softness], isPanelOpen: !$("settings").hidden,
	};
}

async function restore() {
	setBrush(...kept.brush);
	$("settings").hidden = !kept.isPanelOpen;
	results.restore(kept.results);
	await documents.restore(kept.documents.all, kept.documents.at).catch(() => {});
	const chosen = results.all.find(({ key }) => key === kept.chosen);
	if (chosen) await showResult(chosen).catch(() => {});
}

// --- controls --------------------------------------------------------------------------------------------------------

function setBrush(size, softness = tools.softness) {
	tools.size = Math.min(240, Math.max(4, Math.round(size)));
	tools.softness = softness;
	$("size").value = tools.size;
	$("softness").value = softness * 100;
	tools.showRing();
}

function toggleSettings(isOpen = $("settings").hidden) {
	$("settings").hidden = !isOpen;
	$("settings-toggle").setAttribute("aria-expanded", String(isOpen));
	(isOpen ? $("settings-close") : $("settings-toggle")).focus();
	store.save();
}

function addMark(kind) {
	if (mode() === "mask") documents.mask.add({ kind });
}

const clicks = {
	undo, redo: () => documents.redo(), "zoom-in": () => view.zoom(view.scale * ZOOM_STEP), "zoom-out": () => view.zoom(view.scale / ZOOM_STEP),
	fit: () => (view.isFitted ? view.zoom(1) : view.fit()), help: () => $("shortcuts").showModal(),
	"settings-toggle": () => toggleSettings(), "settings-close": () => toggleSettings(false),
	invert: () => addMark("invert"), clear: () => addMark("clear"), fill: () => addMark("fill"), "mask-open": () => $("mask-file").click(),
	"mask-alpha": () => addMask(() => markOfTransparency(documents.picture.levels[0]), "Nothing in this picture is transparent."),
	"mask-save": async () => save(await documents.mask.file(), `${documents.picture.stem}-mask.png`),
	"extend-apply": extend, "extend-cancel": () => chooseTool("brush"), back, again, copy, use: goOn, cancel,
	reuse: () => { settings.apply(results.chosen.request.values); settings.set("seed", results.chosen.seed); settings.refresh(); $("prompt").focus(); },
};
for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", () => act());
for (const button of document.querySelectorAll("#tools [data-tool]")) button.addEventListener("click", () => chooseTool(button.dataset.tool));
for (const button of document.querySelectorAll("[data-format]")) button.addEventListener("click", () => download(button.dataset.format));
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
$("idea-list").append(...IDEAS.map((idea) => {
	const button = element("button", { type: "button" }, element("span", {}, idea.title, element("small", { textContent: idea.prompt })));
	button.addEventListener("click", () => useIdea(idea));
	return button;
}));
for (const menu of document.querySelectorAll(".menu")) {
	menu.addEventListener("click", (event) => { if (event.target.closest("button")) menu.open = false; });
	addEventListener("pointerdown", (event) => { if (!menu.contains(event.target)) menu.open = false; });
}
$("size").addEventListener("input", () => { tools.forgetPlace(); setBrush(Number($("size").value)); });
$("softness").addEventListener("input", () => { tools.forgetPlace(); setBrush(tools.size, Number($("softness").value) / 100); });
for (const id of ["size", "softness"]) $(id).addEventListener("change", () => { tools.showRing(false); store.save(); });
$("mask-file").addEventListener("change", () => {
	const [file] = $("mask-file").files;
	$("mask-file").value = "";
	if (file) addMask(() => markOfFile(file, documents.picture.size));
});
$("ask").addEventListener("submit", (event) => { event.preventDefault(); paint(); });
$("prompt").addEventListener("input", () => { settings.refresh(); store.save(); });
$("key").addEventListener("change", () => takeKey($("key").value));
$("key-form").addEventListener("submit", () => takeKey($("asked-key").value));
settings.addEventListener("change", () => { settle("settings"); store.save(); });
documents.addEventListener("picture", showDocument);
documents.addEventListener("mask", () => { view.draw("mask"); settle("mask"); refresh(); store.save(); });
results.addEventListener("choose", ({ detail }) => showResult(detail));
view.addEventListener("change", () => { $("percent").textContent = `${Math.round(view.scale * 100)} %`; });
addEventListener("pagehide", () => store.saveNow());
watchFiles(open);

listen([
	["mod+enter", "Paint", paint], ["escape", "Cancel, go back, or close", escape],
	["mod+z", "Undo", undo], ["mod+shift+z", "Redo", () => documents.redo()], ["mod+y", "", () => documents.redo()],
	["b", "Brush", () => chooseTool("brush")], ["e", "Eraser", () => chooseTool("eraser")], ["r", "Rectangle", () => chooseTool("rectangle")],
	["l", "Lasso", () => chooseTool("lasso")], ["h", "Move the view; so does holding Space", () => chooseTool("hand")],
	["x", "Extend the picture", () => chooseTool("extend")], ["[", "Smaller brush", () => setBrush(tools.size / 1.2)], ["]", "Larger brush", () => setBrush(tools.size * 1.2 + 1)],
	["i", "Invert the mask", () => addMark("invert")], ["delete", "Clear the mask", () => addMark("clear")],
	["0", "Fit to the window", () => view.fit()], ["1", "100 %", () => view.zoom(1)], ["+", "Zoom in", clicks["zoom-in"]], ["=", "", clicks["zoom-in"]], ["-", "Zoom out", clicks["zoom-out"]],
	["\\", "Hold to see the picture before", () => comparison.hold(true)], ["a", "Another one", () => { if (mode() === "result" && !job) again(); }],
	["u", "Use the result as input", () => { if (mode() === "result") goOn(); }], ["arrowleft", "Newer result", () => neighbour(-1)], ["arrowright", "Older result", () => neighbour(1)],
	["d", "Download", () => { if (mode() === "result") download("png"); }], ["mod+c", "Copy the result", copy],
	["o", "Open a picture", () => $("file").click()], ["s", "Settings", () => toggleSettings()], ["?", "This list", () => $("shortcuts").showModal()],
]);
addEventListener("keyup", (event) => { if (event.key === "\\") comparison.hold(false); });
for (const [name, isHeld] of [["keydown", true], ["keyup", false]]) {
	addEventListener(name, (event) => {
		if (event.key !== " " || takesText(event.target) || (event.target !== $("surface") && event.target !== document.body)) return;
		event.preventDefault();
		gestures.isSpaceHeld = isHeld;
		$("surface").classList.toggle("moving", isHeld);
	});
}

function escape() {
	const menu = document.querySelector(".menu[open]");
	if (menu) menu.open = false;
	else if (tools.name === "extend") chooseTool("brush");
	else if (job) cancel();
	else if (mode() === "result") back();
	else if (isNarrow() && !$("settings").hidden) toggleSettings(false);
}

// --- the start -------------------------------------------------------------------------------------------------------

async function begin() {
	drawIcons();
	service.apiKey = $("key").value = sessionStorage.getItem(KEPT_KEY) ?? "";
	setBrush(matchMedia("(pointer: coarse)").matches ? 40 : 48, 0);
	tools.choose("brush");
	tools.showRing(false);
	refresh();
	listSamples(async (load) => {
		try {
			const { values, ...opened } = await load();
			await openRecord(opened);
			settings.apply(values, false);
		} catch {
			say("The sample could not be loaded.", { tone: "wrong" });
		}
	});
	const connected = connect();
	kept = await store.open(everything);
	if (kept) await restore();
	await connected;
	if (!kept) return;
	const { running, values, isSeedKept } = kept;
	kept = null;
	settings.apply(values, isSeedKept);
	if (running && !job) await run(running);
}

begin();

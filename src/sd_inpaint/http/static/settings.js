// Everything that can be set: the form's fields, made from the service's description of its parameters.

import { $, element } from "./element.js";
import { caption, choice } from "./words.js";

const FIRST = ["negative_prompt", "num_inference_steps", "guidance_scale", "seed"];
const ELSEWHERE = ["prompt", "num_images", "speed"]; // beside the button, and above the fields
const LEFT_OUT = ["output_format", "quality"]; // the page shows what keeps every pixel
const RANDOM_SEEDS = 2 ** 32;

export class Settings extends EventTarget {
	isSeedKept = false;
	#controls = new Map();
	#speeds = {};

	constructor() {
		super();
		const changed = () => { this.refresh(); this.dispatchEvent(new Event("change")); };
		for (const id of ["settings-body", "count"]) $(id).addEventListener("input", changed);
		$("keep-seed").addEventListener("click", () => {
			this.isSeedKept = !this.isSeedKept;
			if (this.isSeedKept && this.get("seed") === "") this.set("seed", newSeed());
			changed();
		});
		$("reset").addEventListener("click", () => { this.reset(); changed(); });
	}

	// Makes the fields, once.
	describe({ parameters, defaults = {}, speeds = {}, loras = [] }) {
		if (this.#controls.size) return;
		this.#speeds = speeds;
		for (const [name, told] of Object.entries(parameters)) {
			if (LEFT_OUT.includes(name) || (name === "loras" && !loras.length)) continue;
			const about = { ...told, default: defaults[name] ?? told.default };
			const control = name === "prompt" ? $("prompt") : name === "num_images" ? makeCount(about) : name === "speed" ? this.#makeSpeed(about) : makeControl(name, about);
			if (name === "prompt") control.maxLength = about.max_length ?? 10_000;
			this.#controls.set(name, { control, about });
			if (!ELSEWHERE.includes(name)) $(FIRST.includes(name) ? "fields" : "more-fields").append(makeLabel(name, about, control));
		}
		this.set("seed", "");
		this.refresh();
	}

	#makeSpeed({ choices, default: value }) {
		$("quality").append(...choices.map((name) => {
			const button = element("button", { textContent: choice(name), value: name });
			button.addEventListener("click", () => { this.#hurry(name); $("quality").dispatchEvent(new Event("input", { bubbles: true })); });
			return button;
		}));
		return element("input", { type: "hidden", name: "speed", value });
	}

	// Takes a speed, and with it all that it stands for.
	#hurry(speed) {
		this.set("speed", speed);
		for (const name of Object.keys(this.#speeds[speed] ?? {})) this.set(name, this.#default(name));
	}

	// What the service takes for a field that is not sent.
	#default(name) {
		return this.#speeds[this.get("speed")]?.[name] ?? this.#controls.get(name)?.about.default ?? "";
	}

	get(name) {
		const control = this.#controls.get(name)?.control;
		return control === undefined ? "" : control.type === "checkbox" ? String(control.checked) : control.value.trim();
	}

	set(name, value) {
		const control = this.#controls.get(name)?.control;
		if (!control) return;
		if (control.type === "checkbox") control.checked = String(value) === "true";
		else control.value = value;
	}

	// What is sent: all that differs from the service's defaults, and a seed.
	values() {
		if (!this.isSeedKept) this.set("seed", newSeed());
		const values = { prompt: this.get("prompt"), ...this.changed(), seed: this.get("seed") || newSeed() };
		this.refresh();
		return values;
	}

	// What differs from the service's own defaults.
	changed() {
		const entries = [...this.#controls.keys()].filter((name) => name !== "prompt" && name !== "seed").map((name) => [name, this.get(name)]);
		const about = this.#controls.get("speed")?.about;
		return Object.fromEntries(entries.filter(([name, value]) => value !== "" && value !== String(name === "speed" ? about.default : this.#default(name))));
	}

	// Sets all as a request had it, and keeps its seed.
	apply(values, isSeedKept = true) {
		this.reset();
		$("prompt").value = values.prompt ?? ""; // also before the service has described itself
		if (values.speed) this.#hurry(values.speed);
		for (const [name, value] of Object.entries(values)) this.set(name, value);
		this.isSeedKept = isSeedKept;
		this.refresh();
		this.dispatchEvent(new Event("change"));
	}

	reset() {
		for (const [name, { about }] of this.#controls) if (name !== "prompt") this.set(name, name === "seed" ? "" : about.default ?? "");
		this.isSeedKept = false;
		this.refresh();
	}

	// The first field whose value cannot be sent, marked; null if there is none.
	invalid() {
		let first = null;
		for (const { control } of this.#controls.values()) {
			const isValid = control.checkValidity();
			control.classList.toggle("bad", !isValid);
			control.setAttribute("aria-invalid", String(!isValid));
			if (!isValid) first ??= control;
		}
		return first;
	}

	refresh() {
		$("keep-seed").setAttribute("aria-pressed", String(this.isSeedKept));
		$("seed-text").textContent = this.isSeedKept ? `Seed ${this.get("seed")}` : "New seed";
		for (const button of $("quality").children) button.setAttribute("aria-pressed", String(button.value === this.get("speed")));
		const seed = this.#controls.get("seed")?.control;
		if (seed) seed.readOnly = !this.isSeedKept;
		$("paint").textContent = this.get("prompt") ? "Paint" : "Remove";
		fitHeight($("prompt"));
	}
}

function newSeed() {
	return String(Math.floor(Math.random() * RANDOM_SEEDS));
}

// A text's field grows with it, where the style sheet cannot say so.
function fitHeight(area) {
	if (CSS.supports("field-sizing", "content")) return;
	area.style.height = "auto";
	area.style.height = `${area.scrollHeight}px`;
}

function makeCount({ minimum = 1, maximum = 1 }) {
	for (let count = minimum; count <= maximum; count++) $("count").append(element("option", { value: count, textContent: count === 1 ? "1 picture" : `${count} pictures` }));
	return $("count");
}

function makeControl(name, about) {
	if (about.choices) {
		const control = element("select", { name });
		control.append(...about.choices.map((value) => element("option", { value, textContent: choice(value) })));
		control.value = about.default;
		return control;
	}
	if (about.type === "boolean") return element("input", { name, type: "checkbox", checked: about.default });
	if (about.type === "string" || about.max_length) return element("textarea", { name, rows: 2, maxLength: about.max_length ?? 10_000, value: about.default ?? "" });
	const control = element("input", {
		name, type: "number", step: about.type === "integer" ? "1" : "any", value: about.default ?? "", placeholder: name === "seed" ? "random" : "by itself",
		// The largest seed is more than a number of JavaScript's holds; the service checks what goes beyond.
		min: name === "seed" ? 0 : about.minimum ?? about.above ?? "", max: about.maximum <= Number.MAX_SAFE_INTEGER ? about.maximum : "",
	});
	control.required = about.default !== undefined && about.default !== null && name !== "seed";
	return control;
}

function makeLabel(name, about, control) {
	const [text, hint] = caption(name, about.description);
	const words = element("span", { textContent: text }), note = element("small", { textContent: hint, hidden: !hint });
	note.id = `about-${name}`;
	control.setAttribute("aria-describedby", note.id);
	if (control.type === "checkbox") {
		words.append(note);
		return element("label", { className: "switch" }, control, words);
	}
	return element("label", { className: control.matches("textarea, select, [name=seed]") ? "wide" : "" }, words, control, note);
}

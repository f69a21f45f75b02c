// Everything that can be set: the form's fields, made from the service's description of its parameters.

import { $, aria, element } from "./dom.js";
import { caption, choice } from "./words.js";

const FIRST = ["negative_prompt", "num_inference_steps", "guidance_scale", "seed"];
const ELSEWHERE = ["prompt", "num_images", "speed"]; // beside the button, and above the fields
const LEFT_OUT = ["output_format", "quality"]; // the page shows what keeps every pixel
const RANDOM_SEEDS = 2 ** 32;
const LONGEST_TEXT = 10_000;

export class Settings {
	isSeedKept = false;
	#controls = new Map();
	#speeds = {};

	constructor(onChange) {
		this.changed = () => { this.refresh(); onChange(); };
		for (const id of ["settings-body", "count"]) $[id].oninput = this.changed;
		$["keep-seed"].onclick = () => {
			this.isSeedKept = !this.isSeedKept;
			if (this.isSeedKept && !this.get("seed")) this.set("seed", newSeed());
			this.changed();
		};
		$.reset.onclick = () => { this.reset(); this.changed(); };
	}

	// Makes the fields, once.
	describe({ parameters, defaults = {}, speeds = {}, loras = [] }) {
		if (this.#controls.size) return;
		this.#speeds = speeds;
		for (const [name, told] of Object.entries(parameters)) {
			if (LEFT_OUT.includes(name) || (name === "loras" && !loras.length)) continue;
			const about = { ...told, default: defaults[name] ?? told.default }, control = this.#controlFor(name, about);
			this.#controls.set(name, { control, about });
			if (!ELSEWHERE.includes(name)) $[FIRST.includes(name) ? "fields" : "more-fields"].append(makeLabel(name, about, control));
		}
		this.set("seed", "");
		this.refresh();
	}

	#controlFor(name, about) {
		if (name === "prompt") return Object.assign($.prompt, { maxLength: about.max_length ?? LONGEST_TEXT });
		if (name === "num_images") return makeCount(about);
		if (name === "speed") return this.#makeSpeed(about);
		return makeControl(name, about);
	}

	#makeSpeed({ choices, default: value }) {
		$.quality.append(...choices.map((name) => element("button", { textContent: choice(name), value: name, onclick: () => {
			this.#hurry(name);
			this.changed();
		} })));
		return element("input", { type: "hidden", name: "speed", value });
	}

	// Takes a speed, and with it all that it stands for.
	#hurry(speed) {
		this.set("speed", speed);
		for (const name in this.#speeds[speed]) this.set(name, this.#default(name));
	}

	// What the service takes for a field that is not sent.
	#default(name) {
		return this.#speeds[this.get("speed")]?.[name] ?? this.#controls.get(name)?.about.default ?? "";
	}

	get(name) {
		const control = this.#controls.get(name)?.control;
		return control?.type === "checkbox" ? String(control.checked) : control?.value.trim() ?? "";
	}

	set(name, value) {
		const control = this.#controls.get(name)?.control;
		if (control?.type === "checkbox") control.checked = String(value) === "true";
		else if (control) control.value = value;
	}

	// What is sent: all that differs from the service's defaults, and a seed.
	values() {
		if (!this.isSeedKept) this.set("seed", newSeed());
		const values = { prompt: this.get("prompt"), ...this.changes, seed: this.get("seed") || newSeed() };
		this.refresh();
		return values;
	}

	// What differs from the service's own defaults.
	get changes() {
		const values = [...this.#controls].filter(([name]) => name !== "prompt" && name !== "seed").map(([name, { about }]) => [
			name, this.get(name), String(name === "speed" ? about.default : this.#default(name)),
		]);
		return Object.fromEntries(values.filter(([, value, usual]) => value !== "" && value !== usual));
	}

	// Sets all as a request had it, and keeps its seed.
	apply(values, isSeedKept = true) {
		this.reset();
		$.prompt.value = values.prompt ?? ""; // also before the service has described itself
		if (values.speed) this.#hurry(values.speed);
		for (const name in values) this.set(name, values[name]);
		this.isSeedKept = isSeedKept;
		this.changed();
	}

	reset() {
		for (const [name, { about }] of this.#controls) if (name !== "prompt") this.set(name, name === "seed" ? "" : about.default ?? "");
		this.isSeedKept = false;
		this.refresh();
	}

	// The first field whose value cannot be sent, marked, if there is one.
	invalid() {
		const wrong = [...this.#controls.values()].filter(({ control }) => {
			const isWrong = !control.checkValidity();
			control.classList.toggle("bad", isWrong);
			aria(control, { invalid: isWrong });
			return isWrong;
		});
		return wrong[0]?.control;
	}

	refresh() {
		aria($["keep-seed"], { pressed: this.isSeedKept });
		$["seed-text"].textContent = this.isSeedKept ? `Seed ${this.get("seed")}` : "New seed";
		for (const button of $.quality.children) aria(button, { pressed: button.value === this.get("speed") });
		const seed = this.#controls.get("seed")?.control;
		if (seed) seed.readOnly = !this.isSeedKept;
		$.paint.textContent = this.get("prompt") ? "Paint" : "Remove";
		fitHeight($.prompt);
	}
}

const newSeed = () => String(Math.floor(Math.random() * RANDOM_SEEDS));

// A text's field grows with it, where the style sheet cannot say so.
function fitHeight(area) {
	if (CSS.supports("field-sizing", "content")) return;
	area.style.height = "auto";
	area.style.height = `${area.scrollHeight}px`;
}

function makeCount({ minimum = 1, maximum = 1 }) {
	for (let value = minimum; value <= maximum; value++) $.count.append(element("option", { value, textContent: value === 1 ? "1 picture" : `${value} pictures` }));
	return $.count;
}

function makeControl(name, { type, choices, default: value, ...about }) {
	if (choices) {
		const control = element("select", { name }, ...choices.map((each) => element("option", { value: each, textContent: choice(each) })));
		control.value = value;
		return control;
	}
	if (type === "boolean") return element("input", { name, type: "checkbox", checked: value });
	if (type === "string" || about.max_length) return element("textarea", { name, rows: 2, maxLength: about.max_length ?? LONGEST_TEXT, value: value ?? "" });
	const isSeed = name === "seed";
	return element("input", {
		name, type: "number", step: type === "integer" ? "1" : "any", value: value ?? "", placeholder: isSeed ? "random" : "by itself", required: !isSeed && (value ?? null) !== null,
		// The largest seed is more than a number of JavaScript's holds; the service checks what goes beyond.
		min: isSeed ? 0 : about.minimum ?? about.above ?? "", max: about.maximum <= Number.MAX_SAFE_INTEGER ? about.maximum : "",
	});
}

function makeLabel(name, about, control) {
	const [text, hint = ""] = caption(name, about.description), isSwitch = control.type === "checkbox";
	const words = element("span", { textContent: text }), note = element("small", { textContent: hint, hidden: !hint, id: `about-${name}` });
	aria(control, { describedby: note.id });
	if (isSwitch) words.append(note);
	const className = isSwitch ? "switch" : control.matches("textarea, select, [name=seed]") ? "wide" : "";
	return element("label", { className }, ...(isSwitch ? [control, words] : [words, control, note]));
}

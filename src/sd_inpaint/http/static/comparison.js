// Before and after: a divider to drag across the picture, and a way to see the picture before for a moment.

import { $, aria, on } from "./dom.js";
import { clamp } from "./picture.js";

const SWEEP_MILLISECONDS = 700;
const KEY_STEP = 0.05;

export class Comparison {
	#sweep = 0; // counts sweeps, and what ends them
	#held = null; // where the divider was before the picture before was shown for a moment

	constructor(view) {
		this.view = view;
		const divider = $.divider;
		divider.onpointerdown = (event) => {
			event.preventDefault();
			divider.focus();
			divider.setPointerCapture(event.pointerId);
		};
		divider.onpointermove = (event) => {
			if (divider.hasPointerCapture(event.pointerId)) this.set(view.point(event)[0] / view.picture.size[0]);
		};
		divider.onkeydown = (event) => {
			const next = { ArrowLeft: view.split - KEY_STEP, ArrowRight: view.split + KEY_STEP, Home: 0, End: 1 }[event.key];
			if (next === undefined) return;
			event.preventDefault();
			event.stopPropagation();
			this.set(next);
		};
		on(view, "change", () => this.#place());
		const press = (isHeld) => ({ type, key }) => { if (!type.startsWith("key") || key === " " || key === "Enter") this.hold(isHeld); };
		on($.before, "pointerdown keydown", press(true));
		on($.before, "pointerup pointerleave pointercancel keyup blur", press(false));
	}

	set(share) {
		this.#sweep++;
		this.#split(share);
	}

	#split(share) {
		this.view.split = clamp(share, 0, 1);
		this.view.draw("picture");
	}

	// Uncovers a result from right to left.
	sweep() {
		if (matchMedia("(prefers-reduced-motion: reduce)").matches) return this.set(0);
		const began = performance.now(), sweep = ++this.#sweep;
		const step = (now) => {
			if (!this.view.before || sweep !== this.#sweep) return;
			const share = clamp((now - began) / SWEEP_MILLISECONDS, 0, 1);
			this.#split((1 - share) ** 3);
			if (share < 1) requestAnimationFrame(step);
		};
		step(began);
	}

	// Shows the picture before for as long as it is asked for.
	hold(isHeld) {
		if (!this.view.before || isHeld === (this.#held !== null)) return;
		aria($.before, { pressed: isHeld });
		const split = this.#held ?? 1;
		this.#held = isHeld ? this.view.split : null;
		this.set(split);
	}

	#place() {
		const { view } = this, divider = $.divider;
		divider.hidden = !view.before;
		if (!view.before) return;
		const [width, height] = view.picture.size, percent = Math.round(view.split * 100);
		view.place(divider, [width * view.split, 0, 0, height]);
		divider.style.width = "";
		// Its handle stays in sight, however far the picture is enlarged.
		const top = Math.max(0, view.y), bottom = Math.min(view.height, view.y + height * view.scale);
		divider.firstElementChild.style.top = `${(top + bottom) / 2 - view.y}px`;
		aria(divider, { valuenow: percent, valuetext: `${percent} % before` });
	}
}

// Before and after: a divider to drag across the picture, and a way to see the picture before for a moment.

import { $ } from "./element.js";

const SWEEP_MILLISECONDS = 700;
const KEY_STEP = 0.05;

export class Comparison {
	constructor(view) {
		this.view = view;
		const divider = $("divider");
		let isHeld = false;
		divider.addEventListener("pointerdown", (event) => {
			event.preventDefault();
			divider.focus();
			divider.setPointerCapture(event.pointerId);
			isHeld = true;
		});
		divider.addEventListener("pointermove", (event) => { if (isHeld) this.set(view.point(event)[0] / view.picture.size[0]); });
		for (const name of ["pointerup", "pointercancel"]) divider.addEventListener(name, () => { isHeld = false; });
		divider.addEventListener("keydown", (event) => {
			const next = { ArrowLeft: view.split - KEY_STEP, ArrowRight: view.split + KEY_STEP, Home: 0, End: 1 }[event.key];
			if (next === undefined) return;
			event.preventDefault();
			event.stopPropagation();
			this.set(next);
		});
		view.addEventListener("change", () => this.#place());
		this.#hold($("before"));
	}

	get isPossible() {
		return Boolean(this.view.before);
	}

	#sweep = 0; // counts sweeps, and what ends them

	set(share) {
		this.#sweep++;
		this.#split(share);
	}

	#split(share) {
		this.view.split = Math.min(1, Math.max(0, share));
		this.view.draw("picture");
	}

	// Uncovers a result from right to left.
	sweep() {
		if (matchMedia("(prefers-reduced-motion: reduce)").matches) return this.set(0);
		const began = performance.now(), sweep = ++this.#sweep;
		const step = (now) => {
			if (!this.isPossible || sweep !== this.#sweep) return;
			const share = Math.min(1, Math.max(0, (now - began) / SWEEP_MILLISECONDS));
			this.#split((1 - share) ** 3);
			if (share < 1) requestAnimationFrame(step);
		};
		this.#split(1);
		requestAnimationFrame(step);
	}

	// Shows the picture before for as long as it is asked for.
	hold(isHeld) {
		if (!this.isPossible || isHeld === (this.held !== undefined)) return;
		$("before").setAttribute("aria-pressed", String(isHeld));
		if (isHeld) this.held = this.view.split;
		this.set(isHeld ? 1 : this.held);
		if (!isHeld) this.held = undefined;
	}

	#hold(button) {
		const press = (isHeld) => (event) => {
			if (event.type.startsWith("key") && event.key !== " " && event.key !== "Enter") return;
			this.hold(isHeld);
		};
		for (const name of ["pointerdown", "keydown"]) button.addEventListener(name, press(true));
		for (const name of ["pointerup", "pointerleave", "pointercancel", "keyup", "blur"]) button.addEventListener(name, press(false));
	}

	#place() {
		const { view } = this, divider = $("divider");
		divider.hidden = !this.isPossible;
		if (!this.isPossible) return;
		const [width, height] = view.picture.size;
		view.place(divider, [width * view.split, 0, 0, height]);
		divider.style.width = "";
		// Its handle stays in sight, however far the picture is enlarged.
		const top = Math.max(0, view.y), bottom = Math.min(view.height, view.y + height * view.scale);
		divider.firstElementChild.style.top = `${(top + bottom) / 2 - view.y}px`;
		const percent = Math.round(view.split * 100);
		divider.setAttribute("aria-valuenow", percent);
		divider.setAttribute("aria-valuetext", `${percent} % before`);
	}
}

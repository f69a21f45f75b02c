// Pointers on the stage: one works with the tool, two move and scale the view, as do a wheel, the space bar and the middle button.

import { on } from "./dom.js";

const WHEEL_SPEED = 0.0016;
const PINCH_SPEED = 0.01; // of a trackpad, which reports a pinch as a wheel with Ctrl

export class Gestures {
	isSpaceHeld = false;
	#pointers = new Map();
	#doing; // "tool", "pan", "pinch" or, until all fingers are up, "over"

	constructor(surface, view, tool) {
		Object.assign(this, { surface, view, tool });
		surface.onpointerdown = (event) => this.#down(event);
		surface.onpointermove = (event) => this.#move(event);
		on(surface, "pointerup pointercancel", (event) => this.#up(event));
		surface.onpointerleave = () => tool.hover(null);
		surface.onwheel = (event) => this.#wheel(event);
		surface.oncontextmenu = (event) => event.preventDefault();
	}

	#down(event) {
		const { surface, tool } = this;
		event.preventDefault();
		surface.focus({ preventScroll: true });
		surface.setPointerCapture(event.pointerId);
		this.#pointers.set(event.pointerId, event);
		if (this.#pointers.size === 2 && event.pointerType === "touch") {
			if (this.#doing === "tool") tool.cancel();
			this.#doing = "pinch";
		} else if (this.#pointers.size === 1) {
			this.#doing = this.isSpaceHeld || event.button === 1 || tool.movesView ? "pan" : "tool";
			if (this.#doing === "tool") tool.begin(event);
		}
		surface.classList.toggle("moving", this.#doing === "pan");
	}

	#move(event) {
		this.tool.hover(event);
		const last = this.#pointers.get(event.pointerId);
		if (!last) return;
		this.#pointers.set(event.pointerId, event);
		const dx = event.clientX - last.clientX, dy = event.clientY - last.clientY;
		if (this.#doing === "tool") {
			// A browser hands over several positions at once; without them a quick stroke has corners.
			const events = event.getCoalescedEvents?.() ?? [];
			this.tool.move(events.length ? events : [event]);
		} else if (this.#doing === "pan") {
			this.view.pan(dx, dy);
		} else if (this.#doing === "pinch" && this.#pointers.size === 2) {
			const other = [...this.#pointers.values()].find((each) => each !== event);
			const distance = (one) => Math.max(10, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY));
			const [[x, y], [otherX, otherY]] = [event, other].map((each) => this.view.onStage(each));
			this.view.zoom((this.view.scale * distance(event)) / distance(last), (x + otherX) / 2, (y + otherY) / 2);
			this.view.pan(dx / 2, dy / 2);
		}
	}

	#up(event) {
		if (!this.#pointers.delete(event.pointerId)) return;
		if (this.#doing === "tool") {
			if (event.type === "pointercancel") this.tool.cancel();
			else this.tool.end();
		}
		// The finger that is left draws nothing.
		if (this.#doing !== "pan") this.#doing = "over";
		if (!this.#pointers.size) this.#doing = null;
		this.surface.classList.remove("moving");
	}

	#wheel(event) {
		event.preventDefault();
		const { deltaX, deltaY, ctrlKey, shiftKey } = event, unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
		if (shiftKey || (deltaX && !ctrlKey)) {
			// Two fingers on a trackpad, or Shift and a wheel.
			const across = shiftKey && !deltaX ? [deltaY, 0] : [deltaX, deltaY];
			this.view.pan(...across.map((delta) => -delta * unit));
		} else {
			this.view.zoom(this.view.scale * Math.exp(-deltaY * unit * (ctrlKey ? PINCH_SPEED : WHEEL_SPEED)), ...this.view.onStage(event));
		}
		this.tool.hover(event);
	}
}

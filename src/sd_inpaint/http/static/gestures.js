// Pointers on the stage: one works with the tool, two move and scale the view, as do a wheel, the space bar and the middle button.

const WHEEL_SPEED = 0.0016;
const PINCH_SPEED = 0.01; // of a trackpad, which reports a pinch as a wheel with Ctrl

export class Gestures {
	isSpaceHeld = false;
	#pointers = new Map();
	#doing = null; // "tool", "pan", "pinch" or, until all fingers are up, "over"

	constructor(surface, view, tool) {
		Object.assign(this, { surface, view, tool });
		surface.addEventListener("pointerdown", (event) => this.#down(event));
		surface.addEventListener("pointermove", (event) => this.#move(event));
		for (const name of ["pointerup", "pointercancel"]) surface.addEventListener(name, (event) => this.#up(event));
		surface.addEventListener("pointerleave", () => tool.hover(null));
		surface.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
		surface.addEventListener("contextmenu", (event) => event.preventDefault());
	}

	#down(event) {
		event.preventDefault();
		this.surface.focus({ preventScroll: true });
		this.surface.setPointerCapture(event.pointerId);
		this.#pointers.set(event.pointerId, event);
		if (this.#pointers.size === 2 && event.pointerType === "touch") {
			if (this.#doing === "tool") this.tool.cancel();
			this.#doing = "pinch";
		} else if (this.#pointers.size === 1) {
			this.#doing = this.isSpaceHeld || event.button === 1 || this.tool.movesView() ? "pan" : "tool";
			if (this.#doing === "tool") this.tool.begin(event);
		}
		this.surface.classList.toggle("moving", this.#doing === "pan");
	}

	#move(event) {
		this.tool.hover(event);
		const last = this.#pointers.get(event.pointerId);
		if (!last) return;
		if (this.#doing === "tool") {
			// A browser hands over several positions at once; without them a quick stroke has corners.
			const events = event.getCoalescedEvents?.() ?? [];
			this.tool.move(events.length ? events : [event]);
		} else if (this.#doing === "pan") {
			this.view.pan(event.clientX - last.clientX, event.clientY - last.clientY);
		} else if (this.#doing === "pinch" && this.#pointers.size === 2) {
			this.#pinch(event, last);
		}
		this.#pointers.set(event.pointerId, event);
	}

	#pinch(event, last) {
		const other = [...this.#pointers.values()].find((each) => each.pointerId !== event.pointerId);
		const distance = (one) => Math.max(10, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY));
		const { left, top } = this.surface.getBoundingClientRect();
		const x = (event.clientX + other.clientX) / 2 - left, y = (event.clientY + other.clientY) / 2 - top;
		this.view.zoom(this.view.scale * (distance(event) / distance(last)), x, y);
		this.view.pan((event.clientX - last.clientX) / 2, (event.clientY - last.clientY) / 2);
	}

	#up(event) {
		if (!this.#pointers.delete(event.pointerId)) return;
		if (this.#doing === "tool") {
			if (event.type === "pointercancel") this.tool.cancel();
			else this.tool.end(event);
			this.#doing = "over";
		} else if (this.#doing === "pinch") {
			this.#doing = "over"; // the finger that is left draws nothing
		}
		if (!this.#pointers.size) this.#doing = null;
		this.surface.classList.remove("moving");
	}

	#wheel(event) {
		event.preventDefault();
		const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
		const { left, top } = this.surface.getBoundingClientRect();
		if (event.shiftKey || (event.deltaX && !event.ctrlKey)) {
			// Two fingers on a trackpad, or Shift and a wheel.
			const across = event.shiftKey && !event.deltaX ? [event.deltaY, 0] : [event.deltaX, event.deltaY];
			this.view.pan(...across.map((delta) => -delta * unit));
		} else {
			this.view.zoom(this.view.scale * Math.exp(-event.deltaY * unit * (event.ctrlKey ? PINCH_SPEED : WHEEL_SPEED)), event.clientX - left, event.clientY - top);
		}
		this.tool.hover(event);
	}
}

// The tools that make a mask: brush, eraser, rectangle, lasso. Alt or the right button takes away instead of adding.

import { $, all, aria, arrowOf, hasFingers, on } from "./dom.js";
import { clamp } from "./picture.js";

const KEY_STEP = 0.02; // of the picture's shorter side, by which an arrow key moves the rectangle
const HINTS = {
	rectangle: "Drag a box. Alt takes away. By keyboard: arrows move, Shift and arrows resize, Enter adds.",
	lasso: "Draw round a part. Alt takes away.",
	hand: "Drag to move the view, turn the wheel to zoom.",
};
const TOUCH_HINTS = { rectangle: "Drag a box.", lasso: "Draw round a part.", hand: "Drag to move, two fingers to zoom." };

const announce = (text) => { $["tool-status"].textContent = text; };
const round = (value) => Math.round(value * 10) / 10;

export class Tools {
	name = "brush";
	size = 48; // of the brush, in pixels of the page
	softness = 0;
	box; // of the rectangle, in the picture's pixels
	#mark; // that is being made
	#place; // where the brush was seen last, on the stage

	constructor(view) {
		this.view = view;
		on(view, "change", () => this.#showBox());
		$.surface.onkeydown = (event) => {
			if (!this.#takesKey(event)) return;
			event.preventDefault();
			event.stopPropagation();
		};
	}

	get mask() {
		return this.view.mask;
	}

	get #hasBrush() {
		return this.name === "brush" || this.name === "eraser";
	}

	get movesView() {
		return this.name === "hand" || this.name === "extend" || !this.mask;
	}

	choose(name) {
		this.cancel();
		this.name = name;
		for (const button of all("#tools [data-tool]")) aria(button, { pressed: button.dataset.tool === name });
		$.surface.dataset.tool = name;
		const hint = (hasFingers() ? TOUCH_HINTS : HINTS)[name];
		$["brush-options"].hidden = !this.#hasBrush;
		$["tool-hint"].hidden = !hint;
		$["tool-hint"].textContent = hint ?? "";
		$["extend-options"].hidden = name !== "extend";
		if (!this.#hasBrush) $.ring.hidden = true;
		this.#showBox(null);
	}

	begin(event) {
		const erase = this.name === "eraser" || event.altKey || event.button === 2, points = [this.#point(event)];
		this.#showBox(null);
		if (this.#hasBrush) {
			this.#mark = { kind: "stroke", points, width: round(this.size / this.view.scale), softness: this.softness, erase };
			this.mask.add(this.#mark);
			this.view.drawStroke(this.#mark, 0);
		} else {
			this.#mark = { kind: this.name === "lasso" ? "polygon" : "rectangle", points, erase };
		}
	}

	move(events) {
		const mark = this.#mark;
		if (!mark) return;
		const points = events.map((event) => this.#point(event)), from = mark.points.length - 1;
		if (mark.kind === "stroke") {
			this.mask.extend(points);
			this.view.drawStroke(mark, from);
		} else if (mark.kind === "rectangle") {
			const [[x0, y0]] = mark.points, [x1, y1] = points.at(-1);
			this.#showBox([Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)].map(round));
		} else {
			mark.points.push(...points);
			this.#showLasso(mark.points);
		}
	}

	end() {
		const { kind, points, erase } = this.#mark ?? {}, { box } = this;
		if (kind === "stroke") this.mask.changed();
		else if (kind === "polygon" && points.length > 2) this.mask.add(this.#mark);
		else if (kind === "rectangle" && box?.[2] >= 1 && box[3] >= 1) this.mask.add({ kind, box, erase });
		this.#finish();
	}

	// A gesture that turned out to be another one.
	cancel() {
		if (this.#mark?.kind === "stroke") this.mask.drop();
		this.#finish();
	}

	#finish() {
		if (this.#mark) this.box = null;
		this.#mark = null;
		$.lasso?.remove();
		this.#showBox();
	}

	// The brush's ring follows the pointer; nothing follows a finger.
	hover(event) {
		if (event) this.#place = this.view.onStage(event);
		this.showRing(Boolean(event) && event.pointerType !== "touch");
	}

	// Shows how large the brush is: where it was, or in the middle.
	showRing(isShown = true) {
		const { size, view } = this, ring = $.ring, [x, y] = this.#place ?? [view.width / 2, view.height / 2];
		ring.hidden = !(isShown && this.#hasBrush && !this.movesView);
		Object.assign(ring.style, { width: `${size}px`, height: `${size}px`, transform: `translate(${x - size / 2}px, ${y - size / 2}px)` });
		ring.style.setProperty("--core", `${(this.softness * size) / 2}px`);
	}

	forgetPlace() {
		this.#place = null;
	}

	#point(event) {
		return this.view.point(event).map(round);
	}

	#showBox(box = this.box) {
		this.box = box;
		$.box.hidden = !box || this.movesView;
		if (box) this.view.place($.box, box);
	}

	#showLasso(points) {
		if (!$.lasso) $.marks.insertAdjacentHTML("beforeend", '<svg id="lasso"><polygon/><polygon class="light"/></svg>');
		const { scale, x, y } = this.view, text = points.map(([left, top]) => [left * scale + x, top * scale + y].map(round)).join(" ");
		for (const shape of $.lasso.children) shape.setAttribute("points", text);
	}

	// The rectangle by keyboard; says whether a key is one of its own.
	#takesKey(event) {
		const { key } = event, arrow = arrowOf(event);
		if (this.name !== "rectangle" || this.movesView || event.ctrlKey || event.metaKey) return false;
		if (arrow) {
			this.#moveBox(arrow, event.shiftKey);
		} else if (!this.box) {
			return false;
		} else if (key === "Enter" || key === "Backspace") {
			this.mask.add({ kind: "rectangle", box: this.box.map(round), erase: key === "Backspace" || event.altKey });
			announce(key === "Enter" ? "Added to the mask." : "Taken from the mask.");
		} else if (key === "Escape") {
			this.#showBox(null);
		} else {
			return false;
		}
		return true;
	}

	#moveBox([dx, dy], resizes) {
		const [width, height] = this.mask.size, step = Math.max(1, Math.round(Math.min(width, height) * KEY_STEP));
		let [left, top, boxWidth, boxHeight] = this.box ?? [];
		if (!this.box) {
			[left, top, boxWidth, boxHeight] = [width * 0.375, height * 0.375, width / 4, height / 4].map(Math.round);
		} else if (resizes) {
			boxWidth = Math.max(step, Math.min(width - left, boxWidth + dx * step));
			boxHeight = Math.max(step, Math.min(height - top, boxHeight + dy * step));
		} else {
			left = clamp(left + dx * step, 0, width - boxWidth);
			top = clamp(top + dy * step, 0, height - boxHeight);
		}
		this.#showBox([left, top, boxWidth, boxHeight]);
		announce(`Rectangle, ${boxWidth} by ${boxHeight}, at ${left}, ${top}. Enter adds it.`);
	}
}

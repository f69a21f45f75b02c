// The tools that make a mask: brush, eraser, rectangle, lasso. Alt or the right button takes away instead of adding.

import { $ } from "./element.js";

const KEY_STEP = 0.02; // of the picture's shorter side, by which an arrow key moves the rectangle
const HINTS = {
	rectangle: "Drag a box. Alt takes away. By keyboard: arrows move, Shift and arrows resize, Enter adds.",
	lasso: "Draw round a part. Alt takes away.",
	hand: "Drag to move the view, turn the wheel to zoom.",
};
const TOUCH_HINTS = { rectangle: "Drag a box.", lasso: "Draw round a part.", hand: "Drag to move, two fingers to zoom." };

export class Tools {
	name = "brush";
	size = 48; // of the brush, in pixels of the page
	softness = 0;
	box = null; // of the keyboard's rectangle, in the picture's pixels
	#mark = null; // that is being made
	#start = null;
	#place = null; // where the brush was seen last: {x, y} on the stage

	constructor(view, announce) {
		Object.assign(this, { view, announce });
		view.addEventListener("change", () => this.#showBox());
		$("surface").addEventListener("keydown", (event) => this.#key(event));
	}

	get mask() {
		return this.view.mask;
	}

	choose(name) {
		this.cancel();
		this.name = name;
		this.box = null;
		for (const button of document.querySelectorAll("#tools [data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
		$("surface").dataset.tool = name;
		const hasBrush = name === "brush" || name === "eraser", hints = matchMedia("(pointer: coarse)").matches ? TOUCH_HINTS : HINTS;
		$("brush-options").hidden = !hasBrush;
		$("tool-hint").hidden = !hints[name];
		$("tool-hint").textContent = hints[name] ?? "";
		$("extend-options").hidden = name !== "extend";
		if (!hasBrush) $("ring").hidden = true;
		this.#showBox();
	}

	movesView() {
		return this.name === "hand" || this.name === "extend" || !this.mask || document.body.dataset.mode === "result";
	}

	begin(event) {
		const erase = this.name === "eraser" || event.altKey || event.button === 2, point = this.#point(event);
		this.#start = point;
		this.box = null;
		if (this.name === "brush" || this.name === "eraser") {
			this.#mark = { kind: "stroke", points: [point], width: round(this.size / this.view.scale), softness: this.softness, erase };
			this.mask.add(this.#mark);
			this.view.drawStroke(this.#mark, 0);
		} else if (this.name === "rectangle") {
			this.#mark = { kind: "rectangle", box: [...point, 0, 0], erase };
		} else {
			this.#mark = { kind: "polygon", points: [point], erase };
		}
	}

	move(events) {
		const mark = this.#mark;
		if (!mark) return;
		const points = events.map((event) => this.#point(event));
		if (mark.kind === "stroke") {
			const from = mark.points.length - 1;
			this.mask.extend(points);
			this.view.drawStroke(mark, from);
		} else if (mark.kind === "rectangle") {
			mark.box = between(this.#start, points.at(-1));
			this.#showBox(mark.box);
		} else {
			mark.points.push(...points);
			this.#showLasso(mark.points);
		}
	}

	end() {
		const mark = this.#mark;
		this.#mark = null;
		this.view.stage.querySelector("#lasso")?.remove();
		if (!mark) return;
		if (mark.kind === "rectangle" && (mark.box[2] < 1 || mark.box[3] < 1)) return this.#showBox();
		if (mark.kind === "polygon" && mark.points.length < 3) return;
		if (mark.kind !== "stroke") this.mask.add(mark);
		else this.mask.dispatchEvent(new Event("ended"));
		this.#showBox();
	}

	// A gesture that turned out to be another one.
	cancel() {
		const mark = this.#mark;
		this.#mark = null;
		this.view.stage.querySelector("#lasso")?.remove();
		if (mark?.kind === "stroke") this.mask.drop();
		this.#showBox();
	}

	// The brush's ring follows the pointer; nothing follows a finger.
	hover(event) {
		if (event) {
			const { left, top } = this.view.stage.getBoundingClientRect();
			this.#place = { x: event.clientX - left, y: event.clientY - top };
		}
		this.showRing(Boolean(event) && event.pointerType !== "touch");
	}

	// Shows how large the brush is: where it was, or in the middle.
	showRing(isShown = true) {
		const ring = $("ring"), hasBrush = this.name === "brush" || this.name === "eraser";
		ring.hidden = !(isShown && hasBrush && !this.movesView());
		const { x, y } = this.#place ?? { x: this.view.width / 2, y: this.view.height / 2 };
		Object.assign(ring.style, { width: `${this.size}px`, height: `${this.size}px`, transform: `translate(${x - this.size / 2}px, ${y - this.size / 2}px)` });
		ring.style.setProperty("--core", `${(this.softness * this.size) / 2}px`);
	}

	forgetPlace() {
		this.#place = null;
	}

	#point(event) {
		return this.view.point(event).map(round);
	}

	#showBox(box = this.#mark?.kind === "rectangle" ? this.#mark.box : this.box) {
		$("box").hidden = !box || this.movesView();
		if (box) this.view.place($("box"), box);
	}

	#showLasso(points) {
		let line = this.view.stage.querySelector("#lasso");
		if (!line) {
			line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
			line.id = "lasso";
			line.append(...["dark", "light"].map((kind) => {
				const shape = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
				shape.setAttribute("class", kind);
				return shape;
			}));
			$("marks").append(line);
		}
		const { scale, x, y } = this.view, text = points.map(([left, top]) => `${round(left * scale + x)},${round(top * scale + y)}`).join(" ");
		for (const shape of line.children) shape.setAttribute("points", text);
	}

	#key(event) {
		if (this.name !== "rectangle" || this.movesView() || event.ctrlKey || event.metaKey) return;
		const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
		if (arrow) {
			this.#moveBox(arrow, event.shiftKey);
		} else if (this.box && (event.key === "Enter" || event.key === "Backspace")) {
			this.mask.add({ kind: "rectangle", box: this.box.map(round), erase: event.key === "Backspace" || event.altKey });
			this.announce(event.key === "Enter" ? "Added to the mask." : "Taken from the mask.");
		} else if (this.box && event.key === "Escape") {
			this.box = null;
			this.#showBox();
		} else {
			return;
		}
		event.preventDefault();
		event.stopPropagation();
	}

	#moveBox([dx, dy], resizes) {
		const [width, height] = this.mask.size, step = Math.max(1, Math.round(Math.min(width, height) * KEY_STEP));
		if (!this.box) {
			this.box = [width * 0.375, height * 0.375, width / 4, height / 4].map(Math.round);
		} else if (resizes) {
			this.box[2] = Math.max(step, Math.min(width - this.box[0], this.box[2] + dx * step));
			this.box[3] = Math.max(step, Math.min(height - this.box[1], this.box[3] + dy * step));
		} else {
			this.box[0] = Math.max(0, Math.min(width - this.box[2], this.box[0] + dx * step));
			this.box[1] = Math.max(0, Math.min(height - this.box[3], this.box[1] + dy * step));
		}
		this.#showBox();
		const [left, top, boxWidth, boxHeight] = this.box.map(Math.round);
		this.announce(`Rectangle, ${boxWidth} by ${boxHeight}, at ${left}, ${top}. Enter adds it.`);
	}
}

const round = (value) => Math.round(value * 10) / 10;

function between([x0, y0], [x1, y1]) {
	return [Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)].map(round);
}

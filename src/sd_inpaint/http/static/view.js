// What the stage shows: a picture and its mask, moved and scaled. Only what changes is drawn, at the screen's own resolution.

import { canvas } from "./picture.js";
import { drawStroke, extent } from "./stroke.js";

const LARGEST = 32; // screen pixels for one of the picture's
const MOST_RATIO = 2; // finer screens show no difference in a mask, and cost more
const EDGE = 48; // of the picture that cannot be moved away, in pixels of the page
const STRIPE = 6; // of the masking film, in pixels of the page
const MOST_ENLARGED = 6; // when it is fitted

export class View extends EventTarget {
	scale = 1; // pixels of the page for one of the picture
	x = 0; // the picture's left edge on the stage
	y = 0;
	picture = null;
	mask = null;
	before = null; // shown left of the divider
	split = 0; // where that is: a share of the picture's width
	isFitted = true;
	#trail = {};
	#wanted = new Set();

	constructor(stage, pictureCanvas, maskCanvas, insets) {
		super();
		Object.assign(this, { stage, insets });
		this.pictureContext = pictureCanvas.getContext("2d");
		this.maskContext = maskCanvas.getContext("2d");
		this.checks = pattern(this.pictureContext, 8, ["#fff", "#d5d5d8"], false);
		new ResizeObserver(() => this.#resize()).observe(stage);
		this.#resize();
	}

	// Shows a picture, with what it is compared with, if anything.
	show(picture, mask, before = null) {
		const isOther = !this.picture || !picture || String(picture.size) !== String(this.picture.size);
		Object.assign(this, { picture, mask, before });
		if (isOther) this.fit();
		this.draw("picture", "mask");
	}

	#scaleFor(width, height) {
		const { left, top, right, bottom } = this.insets();
		return Math.min(MOST_ENLARGED, Math.max(40, this.width - left - right) / width, Math.max(40, this.height - top - bottom) / height);
	}

	// The whole picture or another box, as large as it can be, in the middle of what nothing covers.
	fit(box = null) {
		if (!this.picture) return;
		const { left, top, right, bottom } = this.insets(), [boxLeft, boxTop, width, height] = box ?? [0, 0, ...this.picture.size];
		this.scale = this.#scaleFor(width, height);
		const x = left + (this.width - left - right - width * this.scale) / 2 - boxLeft * this.scale;
		const y = top + (this.height - top - bottom - height * this.scale) / 2 - boxTop * this.scale;
		this.#move(x, y);
		this.isFitted = !box;
	}

	// Scales around a point of the stage; its middle by default.
	zoom(scale, x = this.width / 2, y = this.height / 2) {
		if (!this.picture) return;
		const next = Math.min(LARGEST, Math.max(Math.min(this.#scaleFor(...this.picture.size) / 2, 0.5), scale)), ratio = next / this.scale;
		this.scale = next;
		this.#move(x - (x - this.x) * ratio, y - (y - this.y) * ratio);
	}

	pan(dx, dy) {
		this.#move(this.x + dx, this.y + dy);
	}

	// A point of the window → of the picture, in its pixels.
	point({ clientX, clientY }) {
		const { left, top } = this.stage.getBoundingClientRect();
		return [(clientX - left - this.x) / this.scale, (clientY - top - this.y) / this.scale];
	}

	// A box of the picture's, [left, top, width, height] → where an element has to be on the stage.
	place(element, [left, top, width, height]) {
		Object.assign(element.style, {
			left: `${left * this.scale + this.x}px`, top: `${top * this.scale + this.y}px`, width: `${width * this.scale}px`, height: `${height * this.scale}px`,
		});
	}

	// Draws parts with the next frame, and then says "change".
	draw(...parts) {
		if (!this.#wanted.size) requestAnimationFrame(() => this.#drawWanted());
		for (const part of parts) this.#wanted.add(part);
	}

	// Draws the newest part of a stroke at once, and nothing else.
	drawStroke(stroke, from) {
		const context = this.maskContext, { ratio } = this, scale = this.scale * ratio;
		const [left, top, right, bottom] = extent(stroke, from);
		context.save();
		context.setTransform(scale, 0, 0, scale, this.x * ratio, this.y * ratio);
		context.beginPath();
		context.rect(0, 0, ...this.picture.size);
		context.clip();
		drawStroke(context, stroke, from, this.#trail);
		if (!stroke.erase) this.#colour(left, top, right - left, bottom - top, "source-atop");
		context.restore();
	}

	#drawWanted() {
		if (this.#wanted.has("picture")) this.#drawPicture();
		if (this.#wanted.has("mask")) this.#drawMask();
		this.#wanted.clear();
		this.dispatchEvent(new Event("change"));
	}

	#drawPicture() {
		const context = this.pictureContext, { ratio, picture, before } = this;
		context.setTransform(1, 0, 0, 1, 0, 0);
		context.clearRect(0, 0, context.canvas.width, context.canvas.height);
		if (!picture) return;
		const at = { scale: this.scale * ratio, x: this.x * ratio, y: this.y * ratio };
		const [width, height] = picture.size.map((side) => side * at.scale);
		if (picture.hasAlpha) {
			context.fillStyle = this.checks;
			context.fillRect(at.x, at.y, width, height);
		}
		this.#drawPart(picture, at, [at.x + width * (before ? this.split : 0), at.y, width, height]);
		if (before && this.split > 0) this.#drawPart(before, at, [at.x, at.y, width * this.split, height]);
	}

	#drawPart(picture, at, part) {
		const context = this.pictureContext;
		context.save();
		context.beginPath();
		context.rect(...part);
		context.clip();
		// A result has its input's size, and so has what a browser shows of one that it cannot read itself.
		picture.draw(context, at);
		context.restore();
	}

	#drawMask() {
		const context = this.maskContext, { ratio, mask } = this;
		context.setTransform(1, 0, 0, 1, 0, 0);
		context.globalCompositeOperation = "source-over";
		context.clearRect(0, 0, context.canvas.width, context.canvas.height);
		if (!mask) return;
		const left = Math.max(0, -this.x / this.scale), top = Math.max(0, -this.y / this.scale);
		const right = Math.min(mask.size[0], (this.width - this.x) / this.scale), bottom = Math.min(mask.size[1], (this.height - this.y) / this.scale);
		if (right <= left || bottom <= top) return;
		const from = [left, top, right - left, bottom - top].map((value) => value * mask.scale);
		context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
		context.drawImage(mask.canvas, ...from, left, top, right - left, bottom - top);
		this.#colour(left, top, right - left, bottom - top, "source-atop");
	}

	// Gives a part of the mask the film's stripes, which stay as they are at any zoom.
	#colour(left, top, width, height, operation) {
		const context = this.maskContext, scale = this.scale * this.ratio;
		const box = [left * scale + this.x * this.ratio, top * scale + this.y * this.ratio, width * scale, height * scale];
		context.setTransform(1, 0, 0, 1, 0, 0);
		context.globalCompositeOperation = operation;
		context.fillStyle = this.film;
		context.fillRect(Math.floor(box[0]), Math.floor(box[1]), Math.ceil(box[2]) + 1, Math.ceil(box[3]) + 1);
	}

	// Puts the picture somewhere, on whole pixels of the screen; a part of it stays on the stage, however far it is moved.
	#move(x, y) {
		const [width, height] = this.picture.size.map((side) => side * this.scale), whole = (value) => Math.round(value * this.ratio) / this.ratio;
		this.x = whole(Math.min(this.width - EDGE, Math.max(EDGE - width, x)));
		this.y = whole(Math.min(this.height - EDGE, Math.max(EDGE - height, y)));
		this.isFitted = false;
		this.draw("picture", "mask");
	}

	#resize() {
		const { clientWidth, clientHeight } = this.stage;
		this.width = clientWidth;
		this.height = clientHeight;
		this.ratio = Math.min(MOST_RATIO, devicePixelRatio || 1);
		for (const { canvas: each } of [this.pictureContext, this.maskContext]) {
			each.width = Math.max(1, Math.round(clientWidth * this.ratio));
			each.height = Math.max(1, Math.round(clientHeight * this.ratio));
		}
		this.film = pattern(this.maskContext, Math.round(STRIPE * this.ratio), ["#ff2f67", "#ff7d9f"], true);
		if (this.picture) {
			if (this.isFitted) this.fit();
			this.draw("picture", "mask");
		}
	}
}

// Squares or, sheared, stripes of two colours.
function pattern(context, side, [first, second], isStriped) {
	const tile = canvas(side * 2, side * 2), drawn = tile.getContext("2d");
	drawn.fillStyle = first;
	drawn.fillRect(0, 0, side * 2, side * 2);
	drawn.fillStyle = second;
	for (let row = 0; row < side * 2; row++) {
		const from = isStriped ? row : row < side ? 0 : side;
		for (const left of [from, from - side * 2]) drawn.fillRect(left, row, side, 1);
	}
	return context.createPattern(tile, "repeat");
}

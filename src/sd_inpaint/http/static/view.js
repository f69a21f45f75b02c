// What the stage shows: a picture and its mask, moved and scaled. Only what changes is drawn, at the screen's own resolution.

import { $ } from "./dom.js";
import { clamp, drawing, resize } from "./picture.js";
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
	picture;
	mask;
	before; // shown left of the divider
	split = 0; // where that is: a share of the picture's width
	isFitted = true;
	#pictureContext = $.picture.getContext("2d");
	#maskContext = $.mask.getContext("2d");
	#checks = pattern(8, ["#fff", "#d5d5d8"], false);
	#trail = {};
	#wanted = new Set();

	// `insets` gives what covers the stage's edges: left, top, right, bottom.
	constructor(insets) {
		super();
		this.insets = insets;
		new ResizeObserver(() => this.#resize()).observe($.stage);
		this.#resize();
	}

	// Shows a picture, with what it is compared with, if anything.
	show(picture, mask, before) {
		const isOther = String(picture.size) !== String(this.picture?.size);
		Object.assign(this, { picture, mask, before });
		if (isOther) this.fit();
		this.draw("picture", "mask");
	}

	// What nothing covers of the stage: left, top, width, height.
	#room() {
		const [left, top, right, bottom] = this.insets();
		return [left, top, this.width - left - right, this.height - top - bottom];
	}

	#scaleFor(width, height) {
		const [, , roomWidth, roomHeight] = this.#room();
		return Math.min(MOST_ENLARGED, Math.max(40, roomWidth) / width, Math.max(40, roomHeight) / height);
	}

	// The whole picture or another box, as large as it can be, in the middle of what nothing covers.
	fit(box) {
		if (!this.picture) return;
		const [left, top, roomWidth, roomHeight] = this.#room(), [boxLeft, boxTop, width, height] = box ?? [0, 0, ...this.picture.size];
		this.scale = this.#scaleFor(width, height);
		this.#move(left + roomWidth / 2 - (boxLeft + width / 2) * this.scale, top + roomHeight / 2 - (boxTop + height / 2) * this.scale);
		this.isFitted = !box;
	}

	// Scales around a point of the stage; its middle by default.
	zoom(scale, x = this.width / 2, y = this.height / 2) {
		if (!this.picture) return;
		const next = clamp(scale, Math.min(this.#scaleFor(...this.picture.size) / 2, 0.5), LARGEST), ratio = next / this.scale;
		this.scale = next;
		this.#move(x - (x - this.x) * ratio, y - (y - this.y) * ratio);
	}

	pan(dx, dy) {
		this.#move(this.x + dx, this.y + dy);
	}

	// A point of the window → of the stage.
	onStage({ clientX, clientY }) {
		const { left, top } = $.stage.getBoundingClientRect();
		return [clientX - left, clientY - top];
	}

	// A point of the window → of the picture, in its pixels.
	point(event) {
		const [x, y] = this.onStage(event);
		return [(x - this.x) / this.scale, (y - this.y) / this.scale];
	}

	// A box of the picture's, [left, top, width, height] → where an element has to be on the stage.
	place({ style }, [left, top, width, height]) {
		const { scale, x, y } = this, places = { left: left * scale + x, top: top * scale + y, width: width * scale, height: height * scale };
		for (const side in places) style[side] = `${places[side]}px`;
	}

	// Draws parts with the next frame, and then says "change".
	draw(...parts) {
		if (!this.#wanted.size) requestAnimationFrame(() => this.#drawWanted());
		for (const part of parts) this.#wanted.add(part);
	}

	// Draws the newest part of a stroke at once, and nothing else.
	drawStroke(stroke, from) {
		const context = this.#maskContext;
		this.#within(context, this.#whole, () => {
			drawStroke(context, stroke, from, this.#trail);
			if (!stroke.erase) this.#colour(extent(stroke, from));
		});
	}

	get #whole() {
		return [0, 0, ...this.picture.size];
	}

	#drawWanted() {
		if (this.#wanted.has("picture")) this.#drawPicture();
		if (this.#wanted.has("mask")) this.#drawMask();
		this.#wanted.clear();
		this.dispatchEvent(new Event("change"));
	}

	#drawPicture() {
		const context = this.#pictureContext, { picture, before, split } = this, [width, height] = picture.size, scale = this.scale * this.ratio;
		clear(context);
		context.imageSmoothingEnabled = scale < 4;
		if (picture.hasAlpha) this.#within(context, this.#whole, () => this.#fill(context, this.#checks, this.#whole));
		this.#drawSeen(context, picture.levelFor(scale), [before ? width * split : 0, 0, width, height]);
		// A result has its input's size, and so has what a browser shows of one that it cannot read itself.
		if (before && split > 0) this.#drawSeen(context, before.levelFor(scale), [0, 0, width * split, height]);
	}

	#drawMask() {
		const context = this.#maskContext;
		clear(context);
		if (this.mask) this.#drawSeen(context, this.mask.canvas, this.#whole, (seen) => this.#colour(seen));
	}

	// Draws what is on the stage of the picture, from an image of all of it, within a box.
	#drawSeen(context, image, box, finish = () => {}) {
		const { scale, x, y } = this, [width, height] = this.picture.size, ratio = image.width / width;
		const left = Math.max(0, -x / scale), top = Math.max(0, -y / scale);
		const seen = [left, top, Math.min(width, (this.width - x) / scale) - left, Math.min(height, (this.height - y) / scale) - top];
		if (seen[2] <= 0 || seen[3] <= 0) return;
		this.#within(context, box, () => {
			context.drawImage(image, ...seen.map((value) => value * ratio), ...seen);
			finish(seen);
		});
	}

	// Draws in the picture's pixels, within a box of it.
	#within(context, box, draw) {
		const { ratio } = this, scale = this.scale * ratio;
		context.save();
		context.setTransform(scale, 0, 0, scale, this.x * ratio, this.y * ratio);
		context.beginPath();
		context.rect(...box);
		context.clip();
		draw();
		context.restore();
	}

	// Gives a part of the mask the film's stripes.
	#colour(box) {
		this.#maskContext.globalCompositeOperation = "source-atop";
		this.#fill(this.#maskContext, this.film, box);
	}

	// Fills a box of the picture's with a pattern that stays as it is at any zoom.
	#fill(context, style, [left, top, width, height]) {
		const { a: scale, e: x, f: y } = context.getTransform();
		context.resetTransform();
		context.fillStyle = style;
		context.fillRect(Math.floor(left * scale + x), Math.floor(top * scale + y), Math.ceil(width * scale) + 1, Math.ceil(height * scale) + 1);
	}

	// Puts the picture somewhere, on whole pixels of the screen; a part of it stays on the stage, however far it is moved.
	#move(x, y) {
		const [width, height] = this.picture.size.map((side) => side * this.scale), whole = (value) => Math.round(value * this.ratio) / this.ratio;
		this.x = whole(clamp(x, EDGE - width, this.width - EDGE));
		this.y = whole(clamp(y, EDGE - height, this.height - EDGE));
		this.isFitted = false;
		this.draw("picture", "mask");
	}

	#resize() {
		const { clientWidth: width, clientHeight: height } = $.stage, ratio = Math.min(MOST_RATIO, devicePixelRatio || 1);
		Object.assign(this, { width, height, ratio, film: pattern(Math.round(STRIPE * ratio), ["#ff2f67", "#ff7d9f"], true) });
		for (const { canvas } of [this.#pictureContext, this.#maskContext]) resize(canvas, width * ratio, height * ratio);
		if (!this.picture) return;
		if (this.isFitted) this.fit();
		this.draw("picture", "mask");
		this.#drawWanted(); // a resized canvas is empty, and would be for a frame
	}
}

const clear = (context) => context.clearRect(0, 0, context.canvas.width, context.canvas.height);

// Squares or, sheared, stripes of two colours.
function pattern(side, [first, second], isStriped) {
	const context = drawing(side * 2, side * 2);
	context.fillStyle = first;
	context.fillRect(0, 0, side * 2, side * 2);
	context.fillStyle = second;
	for (let row = 0; row < side * 2; row++) {
		const from = isStriped ? row : row < side ? 0 : side;
		for (const left of [from, from - side * 2]) context.fillRect(left, row, side, 1);
	}
	return context.createPattern(context.canvas, "repeat");
}

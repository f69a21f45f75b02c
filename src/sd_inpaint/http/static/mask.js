// The mask: marks in the picture's pixels, each of which can be taken back, and their sum as opaque white on nothing.

import { decode, drawing, scaled, shareOf, toFile } from "./picture.js";
import { drawStroke } from "./stroke.js";

const KEPT_MARKS = 12; // that are drawn once more for an undo; those before them are kept as pixels
const MOST_LEVELS = 10; // levels up to this one nobody sees, says docs/api.md

export class Mask {
	changed = () => {}; // called after each change but for `extend`
	#trail = {};
	#base; // {count, canvas}: the first `count` marks, drawn

	constructor(size, marks, undone = []) {
		this.scale = shareOf(size);
		this.context = drawing(...size.map((side) => side * this.scale)); // the file has the picture's own size
		Object.assign(this, { size, marks, undone, canvas: this.context.canvas });
	}

	// Draws marks that were kept; images among them are decoded first.
	async restore() {
		for (const mark of [...this.marks, ...this.undone]) if (mark.file) mark.image = await decode(mark.file);
		this.#redraw();
	}

	// Adds a mark and draws it. A stroke may go on to grow: see extend.
	add(mark) {
		this.undone = [];
		this.#add(mark);
	}

	// Adds points to the last mark, a stroke; says nothing, since this happens with each move.
	extend(points) {
		const stroke = this.marks.at(-1), from = stroke.points.length - 1;
		stroke.points.push(...points);
		this.context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
		drawStroke(this.context, stroke, from, this.#trail);
	}

	undo() {
		this.undone.push(this.marks.pop());
		this.#redraw();
	}

	redo() {
		this.#add(this.undone.pop());
	}

	// Takes the last mark away for good: a stroke that turned out to be a pinch.
	drop() {
		this.marks.pop();
		this.#redraw();
	}

	// The marks without what cannot be stored.
	get stored() {
		const bare = (marks) => marks.map(({ image, ...mark }) => mark);
		return { marks: bare(this.marks), undone: bare(this.undone) };
	}

	// Whether nothing visible is masked, by the pixels.
	get isEmpty() {
		const { width, height } = this.canvas;
		if (!this.marks.length) return true;
		for (let top = 0; top < height; top += 512) {
			const { data } = this.context.getImageData(0, top, width, Math.min(512, height - top));
			for (let i = 3; i < data.length; i += 4) if (data[i] > MOST_LEVELS) return false;
		}
		return true;
	}

	// A PNG of the picture's own size: white where it is to be repainted, black elsewhere.
	async file() {
		const whole = [0, 0, ...this.size], context = drawing(...this.size, { alpha: false });
		context.fillStyle = "black";
		context.fillRect(...whole);
		context.drawImage(this.canvas, ...whole);
		return toFile(context.canvas);
	}

	#add(mark) {
		this.marks.push(mark);
		this.#draw(mark);
		this.changed();
	}

	#redraw() {
		const { width, height } = this.canvas;
		if (this.#base?.count > this.marks.length) this.#base = null;
		const first = this.#base?.count ?? 0;
		this.context.resetTransform();
		this.context.globalCompositeOperation = "copy";
		if (first) this.context.drawImage(this.#base.canvas, 0, 0);
		else this.context.clearRect(0, 0, width, height);
		this.marks.slice(first).forEach((mark, i) => {
			this.#draw(mark);
			const count = first + i + 1;
			if (count === this.marks.length - KEPT_MARKS && count - first > KEPT_MARKS) this.#base = { count, canvas: scaled(this.canvas, width, height) };
		});
		this.changed();
	}

	#draw(mark) {
		const { context, scale } = this, { kind } = mark, whole = [0, 0, ...this.size];
		context.setTransform(scale, 0, 0, scale, 0, 0);
		context.globalCompositeOperation = mark.erase || kind === "clear" ? "destination-out" : kind === "invert" ? "xor" : "source-over";
		context.fillStyle = "white";
		if (kind === "stroke") drawStroke(context, mark, 0, this.#trail);
		else if (kind === "polygon") drawPolygon(context, mark.points);
		else if (kind === "image") context.drawImage(mark.image, ...whole);
		else if (kind === "border") drawBorder(context, this.size, mark.box, mark.overlap);
		else context.fillRect(...(mark.box ?? whole)); // rectangle, fill, clear, invert
	}
}

function drawPolygon(context, points) {
	context.beginPath();
	for (const point of points) context.lineTo(...point);
	context.fill();
}

// All but a box, and a slope from white to nothing over `overlap` pixels within it, at the sides that have something beyond them.
function drawBorder(context, [width, height], [left, top, boxWidth, boxHeight], overlap) {
	const right = width - left - boxWidth, bottom = height - top - boxHeight;
	// How much is beyond a side, where that is, and which way is in.
	for (const [beyond, x, y, dx, dy] of [[left, left, 0, 1, 0], [right, width - right, 0, -1, 0], [top, 0, top, 0, 1], [bottom, 0, height - bottom, 0, -1]]) {
		if (!beyond) continue;
		const slope = context.createLinearGradient(x, y, x + dx * overlap, y + dy * overlap);
		slope.addColorStop(0, "white");
		slope.addColorStop(1, "#fff0");
		context.fillStyle = slope;
		context.fillRect(0, 0, width, height);
	}
}

// A mark of a mask's file: white repaints; in a file with transparent parts, those do.
export async function markOfFile(file, [width, height]) {
	const image = await decode(file), { naturalWidth, naturalHeight } = image;
	if (Math.abs((naturalWidth * height) / (naturalHeight * width) - 1) > 0.02) {
		throw new Error(`This mask is ${naturalWidth} × ${naturalHeight}, and the picture ${width} × ${height}. A mask needs its picture's shape.`);
	}
	return markOf(image, false);
}

// A mark of what is transparent in a picture; null if nothing is.
export const markOfTransparency = (canvas) => markOf(canvas, true);

async function markOf(source, needsAlpha) {
	const { naturalWidth: width = source.width, naturalHeight: height = source.height } = source;
	const context = scaled(source, width, height).getContext("2d"), pixels = context.getImageData(0, 0, width, height), { data } = pixels;
	let isTransparent = false;
	for (let i = 3; i < data.length && !isTransparent; i += 4) isTransparent = data[i] < 255;
	if (needsAlpha && !isTransparent) return null;
	for (let i = 0; i < data.length; i += 4) {
		data[i + 3] = isTransparent ? 255 - data[i + 3] : Math.round(0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]);
		data[i] = data[i + 1] = data[i + 2] = 255;
	}
	context.putImageData(pixels, 0, 0);
	const file = await toFile(context.canvas);
	return { kind: "image", file, image: await decode(file) };
}

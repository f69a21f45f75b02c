// The mask: marks in the picture's pixels, each of which can be taken back, and their sum as opaque white on nothing.

import { canvas, decode, toFile } from "./picture.js";
import { drawStroke } from "./stroke.js";

const MOST_PIXELS = 16_777_216; // of a canvas in Safari; the file has the picture's own size
const KEPT_MARKS = 12; // that are drawn once more for an undo; those before them are kept as pixels
const MOST_LEVELS = 10; // levels up to this one nobody sees, says docs/api.md

export class Mask extends EventTarget {
	marks = [];
	undone = [];
	#trail = {};
	#base = null; // {count, canvas}: the first `count` marks, drawn

	constructor(size, marks = [], undone = []) {
		super();
		this.size = size;
		this.scale = Math.min(1, Math.sqrt(MOST_PIXELS / (size[0] * size[1])));
		this.canvas = canvas(size[0] * this.scale, size[1] * this.scale);
		this.context = this.canvas.getContext("2d");
		Object.assign(this, { marks, undone });
	}

	// Draws marks that were kept; images among them are decoded first.
	async restore() {
		for (const mark of [...this.marks, ...this.undone]) if (mark.file) mark.image = await decode(mark.file);
		this.#redraw();
	}

	// Adds a mark and draws it. A stroke may go on to grow: see extend.
	add(mark) {
		this.marks.push(mark);
		this.undone = [];
		this.#draw(mark);
		this.#changed();
	}

	// Adds points to the last mark, a stroke; says nothing, since this happens with each move.
	extend(points) {
		const stroke = this.marks.at(-1), from = stroke.points.length - 1;
		stroke.points.push(...points);
		this.context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
		drawStroke(this.context, stroke, from, this.#trail);
	}

	undo() {
		if (!this.marks.length) return;
		this.undone.push(this.marks.pop());
		this.#redraw();
	}

	redo() {
		if (!this.undone.length) return;
		const mark = this.undone.pop();
		this.marks.push(mark);
		this.#draw(mark);
		this.#changed();
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
		const [width, height] = this.size, whole = canvas(width, height), context = whole.getContext("2d", { alpha: false });
		context.fillStyle = "black";
		context.fillRect(0, 0, width, height);
		context.drawImage(this.canvas, 0, 0, width, height);
		return toFile(whole);
	}

	#changed() {
		this.dispatchEvent(new Event("change"));
	}

	#redraw() {
		const { width, height } = this.canvas;
		if (this.#base && this.#base.count > this.marks.length) this.#base = null;
		this.context.setTransform(1, 0, 0, 1, 0, 0);
		this.context.globalCompositeOperation = "copy";
		if (this.#base) this.context.drawImage(this.#base.canvas, 0, 0);
		else this.context.clearRect(0, 0, width, height);
		const first = this.#base?.count ?? 0;
		this.marks.slice(first).forEach((mark, i) => {
			this.#draw(mark);
			const count = first + i + 1;
			if (count === this.marks.length - KEPT_MARKS && count - first > KEPT_MARKS) {
				const copy = canvas(width, height);
				copy.getContext("2d").drawImage(this.canvas, 0, 0);
				this.#base = { count, canvas: copy };
			}
		});
		this.#changed();
	}

	#draw(mark) {
		const { context, scale } = this, [width, height] = this.size;
		context.setTransform(scale, 0, 0, scale, 0, 0);
		context.globalCompositeOperation = mark.erase ? "destination-out" : "source-over";
		context.fillStyle = "white";
		switch (mark.kind) {
			case "stroke":
				drawStroke(context, mark, 0, this.#trail);
				break;
			case "polygon":
				context.beginPath();
				mark.points.forEach(([x, y]) => context.lineTo(x, y));
				context.fill();
				break;
			case "rectangle":
				context.fillRect(...mark.box);
				break;
			case "invert":
				context.globalCompositeOperation = "xor";
				context.fillRect(0, 0, width, height);
				break;
			case "clear":
				context.clearRect(0, 0, width, height);
				break;
			case "fill":
				context.fillRect(0, 0, width, height);
				break;
			case "image":
				context.drawImage(mark.image, 0, 0, width, height);
				break;
			case "border":
				drawBorder(context, this.size, mark.box, mark.overlap);
				break;
		}
	}
}

// All but a box, and a slope from white to nothing over `overlap` pixels within it, at the sides that have something beyond them.
function drawBorder(context, [width, height], [left, top, boxWidth, boxHeight], overlap) {
	const right = left + boxWidth, bottom = top + boxHeight;
	const sides = [
		[left > 0, left, 0, left + overlap, 0, [0, 0, left + overlap, height]],
		[right < width, right, 0, right - overlap, 0, [right - overlap, 0, width - right + overlap, height]],
		[top > 0, 0, top, 0, top + overlap, [0, 0, width, top + overlap]],
		[bottom < height, 0, bottom, 0, bottom - overlap, [0, bottom - overlap, width, height - bottom + overlap]],
	];
	for (const [isExtended, x0, y0, x1, y1, area] of sides) {
		if (!isExtended) continue;
		const slope = context.createLinearGradient(x0, y0, x1, y1);
		slope.addColorStop(0, "white");
		slope.addColorStop(1, "#fff0");
		context.fillStyle = slope;
		context.fillRect(...area);
	}
}

// A mark of a mask's file: white repaints; in a file with transparent parts, those do.
export async function markOfFile(file, [width, height]) {
	const image = await decode(file);
	const ratio = (image.naturalWidth * height) / (image.naturalHeight * width);
	if (Math.abs(ratio - 1) > 0.02) {
		throw new Error(`This mask is ${image.naturalWidth} × ${image.naturalHeight}, and the picture ${width} × ${height}. A mask needs its picture's shape.`);
	}
	return markOf(image, image.naturalWidth, image.naturalHeight, false);
}

// A mark of what is transparent in a picture; null if nothing is.
export async function markOfTransparency(source) {
	return markOf(source, source.width, source.height, true);
}

async function markOf(source, width, height, needsAlpha) {
	const drawn = canvas(width, height), context = drawn.getContext("2d");
	context.drawImage(source, 0, 0, drawn.width, drawn.height);
	const pixels = context.getImageData(0, 0, drawn.width, drawn.height), { data } = pixels;
	let isTransparent = false;
	for (let i = 3; i < data.length && !isTransparent; i += 4) isTransparent = data[i] < 255;
	if (needsAlpha && !isTransparent) return null;
	for (let i = 0; i < data.length; i += 4) {
		data[i + 3] = isTransparent ? 255 - data[i + 3] : Math.round(0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]);
		data[i] = data[i + 1] = data[i + 2] = 255;
	}
	context.putImageData(pixels, 0, 0);
	const file = await toFile(drawn);
	return { kind: "image", file, image: await decode(file) };
}

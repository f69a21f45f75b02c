// A picture that is open: the file as it came, and its pixels at halving sizes, for quick drawing at any zoom.

import { element } from "./dom.js";

const MOST_PIXELS = 16_777_216; // of a canvas in Safari
const SMALLEST_SIDE = 512;
const THUMBNAIL_SIDE = 192;

export const clamp = (value, least, most) => Math.max(least, Math.min(most, value));

// A file's name without its suffix.
export const stemOf = (name) => name?.replace(/\.[^.]*$/, "") || "picture";

// By what a picture's sides are shortened for a canvas.
export const shareOf = ([width, height]) => Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));

// Shows a file in an image of its own; refuses if this browser cannot.
export async function decode(file) {
	const image = new Image();
	image.src = URL.createObjectURL(file);
	try {
		await image.decode();
		if (!image.naturalWidth) throw new Error("no size");
		return image;
	} finally {
		// Decoded pixels stay with the image.
		URL.revokeObjectURL(image.src);
	}
}

export function resize(canvas, width, height) {
	[canvas.width, canvas.height] = [width, height].map((side) => Math.max(1, Math.round(side)));
	return canvas;
}

// A new canvas, as the context to draw on it with.
export const drawing = (width, height, options) => resize(element("canvas"), width, height).getContext("2d", options);

// A copy at another size.
export function scaled(source, width, height) {
	const context = drawing(width, height), { canvas } = context;
	context.drawImage(source, 0, 0, canvas.width, canvas.height);
	return canvas;
}

// A PNG by default.
export function toFile(canvas, type, quality) {
	return new Promise((resolve, reject) => {
		canvas.toBlob((file) => (file && (!type || file.type === type) ? resolve(file) : reject(new Error("This browser cannot make that file. Try another format or a smaller picture."))), type, quality);
	});
}

export class Picture {
	constructor(image, { file, shown = file, size, name }) {
		const own = [image.naturalWidth, image.naturalHeight], share = shareOf(own);
		let level = scaled(image, ...own.map((side) => side * share));
		Object.assign(this, { shown, name, size: size ?? own, levels: [level], hasAlpha: !/jpe?g|bmp/.test(shown.type) });
		// Whether all of the file's pixels are here, and no smaller picture in their place.
		this.isWhole = String(this.size) === String([level.width, level.height]);
		while (Math.min(level.width, level.height) > SMALLEST_SIDE) {
			level = scaled(level, level.width / 2, level.height / 2);
			this.levels.push(level);
		}
	}

	static async open(record) {
		return new Picture(await decode(record.shown ?? record.file), record);
	}

	// The smallest copy that has the detail for a scale.
	levelFor(scale) {
		return this.levels.findLast(({ width }) => width >= this.size[0] * scale) ?? this.levels[0];
	}

	get thumbnail() {
		const smallest = this.levels.at(-1), { width, height } = smallest, share = THUMBNAIL_SIDE / Math.min(width, height);
		return scaled(smallest, width * share, height * share).toDataURL("image/jpeg", 0.8);
	}
}

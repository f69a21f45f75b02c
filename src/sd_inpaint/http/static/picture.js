// A picture that is open: the file as it came, and its pixels at halving sizes, for quick drawing at any zoom.

const MOST_PIXELS = 16_777_216; // of a canvas in Safari
const SMALLEST_SIDE = 512;

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

export function canvas(width, height) {
	const made = document.createElement("canvas");
	[made.width, made.height] = [Math.max(1, Math.round(width)), Math.max(1, Math.round(height))];
	return made;
}

export function toFile(source, type = "image/png", quality = undefined) {
	return new Promise((resolve, reject) => {
		source.toBlob((file) => (file ? resolve(file) : reject(new Error("This browser cannot make a file of that size. A smaller picture will do."))), type, quality);
	});
}

export class Picture {
	constructor(file, shown, size, image, name) {
		Object.assign(this, { file, shown, size, name });
		this.hasAlpha = !/jpe?g|bmp/.test(shown.type);
		const share = Math.min(1, Math.sqrt(MOST_PIXELS / (image.naturalWidth * image.naturalHeight)));
		const whole = canvas(image.naturalWidth * share, image.naturalHeight * share);
		whole.getContext("2d").drawImage(image, 0, 0, whole.width, whole.height);
		this.levels = [whole];
		for (let last = whole; Math.min(last.width, last.height) > SMALLEST_SIDE;) {
			const half = canvas(last.width / 2, last.height / 2);
			half.getContext("2d").drawImage(last, 0, 0, half.width, half.height);
			this.levels.push(half);
			last = half;
		}
		// Whether all of the file's pixels are here, and no smaller picture in their place.
		this.isWhole = whole.width === size[0] && whole.height === size[1];
	}

	static async open({ file, shown, size, name }) {
		const image = await decode(shown);
		return new Picture(file, shown, size ?? [image.naturalWidth, image.naturalHeight], image, name);
	}

	get stem() {
		return (this.name || "picture").replace(/\.[^.]*$/, "") || "picture";
	}

	// Draws the part that a view shows, from the smallest copy that has the detail.
	draw(context, { scale, x, y }) {
		const [width, height] = this.size;
		const enough = this.levels.findLast((level) => level.width >= width * scale) ?? this.levels[0];
		const ratio = enough.width / width;
		const left = Math.max(0, -x / scale), top = Math.max(0, -y / scale);
		const right = Math.min(width, (context.canvas.width - x) / scale), bottom = Math.min(height, (context.canvas.height - y) / scale);
		if (right <= left || bottom <= top) return;
		context.imageSmoothingEnabled = scale < 4;
		context.drawImage(enough, left * ratio, top * ratio, (right - left) * ratio, (bottom - top) * ratio,
			left * scale + x, top * scale + y, (right - left) * scale, (bottom - top) * scale);
	}

	thumbnail(side = 192) {
		const source = this.levels.at(-1), share = side / Math.min(source.width, source.height);
		const small = canvas(source.width * share, source.height * share);
		small.getContext("2d").drawImage(source, 0, 0, small.width, small.height);
		return small.toDataURL("image/jpeg", 0.8);
	}
}

// A picture beyond its borders: a frame to drag, a padded picture, and a mask of what is new with an overlap into what is old.

import { $, element } from "./element.js";
import { canvas, decode, toFile, Picture } from "./picture.js";
import { megapixels } from "./words.js";

const QUARTER = 0.25;
const ROOM = 0.2; // of the shorter side
const OVERLAP = 0.05; // of the shorter side: what the model may change of the old picture, fading out
const MOST_OVERLAP = 48; // pixels
const MULTIPLE = 8; // the sides of models' canvases
const HANDLES = { n: [0.5, 0], s: [0.5, 1], w: [0, 0.5], e: [1, 0.5], nw: [0, 0], ne: [1, 0], sw: [0, 1], se: [1, 1] };
const NAMES = { n: "upper side", s: "lower side", w: "left side", e: "right side", nw: "upper left corner", ne: "upper right corner", sw: "lower left corner", se: "lower right corner" };
const MOST_ENLARGED = 3; // times a side

export class Extension extends EventTarget {
	margins = { left: 0, top: 0, right: 0, bottom: 0 }; // in the picture's pixels
	isOpen = false;

	constructor(view) {
		super();
		this.view = view;
		view.addEventListener("change", () => this.#show());
		for (const name of Object.keys(HANDLES)) $("frame").append(this.#handle(name));
		for (const button of $("extend-options").querySelectorAll("[data-side]")) {
			button.addEventListener("click", () => this.#grow(button.dataset.side));
		}
		$("ratio").addEventListener("change", () => this.#shape(Number($("ratio").value)));
	}

	open() {
		this.isOpen = true;
		this.#set({ left: 0, top: 0, right: 0, bottom: 0 });
		$("ratio").value = "";
		this.#fit();
	}

	close() {
		if (!this.isOpen) return;
		this.isOpen = false;
		$("frame").hidden = true;
		this.view.fit();
	}

	get isAny() {
		return Object.values(this.margins).some((margin) => margin > 0);
	}

	get size() {
		const { left, top, right, bottom } = this.margins, [width, height] = this.view.picture.size;
		return [width + left + right, height + top + bottom];
	}

	// The padded picture as a document: its edges drawn on, and a mark for what is new.
	async make() {
		const { picture } = this.view, { left, top } = this.margins, [width, height] = picture.size;
		const image = picture.isWhole ? picture.levels[0] : await decode(picture.shown);
		if ((image.naturalWidth ?? image.width) !== width) {
			throw new Error("This browser cannot read that file itself, so the page cannot extend it. Save it as a JPEG or PNG first.");
		}
		const padded = canvas(...this.size), context = padded.getContext("2d", { alpha: picture.hasAlpha });
		drawEdges(context, image, left, top, width, height);
		context.drawImage(image, left, top);
		const file = await toFile(padded), name = `${picture.stem}.png`;
		const overlap = Math.round(Math.min(MOST_OVERLAP, Math.min(width, height) * OVERLAP));
		const record = { file, shown: file, name, marks: [{ kind: "border", box: [left, top, width, height], overlap }] };
		return { record, picture: await Picture.open(record) };
	}

	// Leaves room around the frame, to drag into.
	#fit() {
		const { left, top } = this.margins, [width, height] = this.size, room = Math.min(width, height) * ROOM;
		this.view.fit([-left - room, -top - room, width + 2 * room, height + 2 * room]);
	}

	#grow(side) {
		const [width, height] = this.view.picture.size, isAcross = side === "left" || side === "right";
		this.#set({ ...this.margins, [side]: this.margins[side] + Math.round((isAcross ? width : height) * QUARTER) });
		$("ratio").value = "";
		this.#fit();
	}

	// The smallest frame of a shape around the picture, which stays in its middle.
	#shape(ratio) {
		if (!ratio) return;
		const [width, height] = this.view.picture.size;
		const across = Math.max(0, Math.round((height * ratio - width) / 2)), down = Math.max(0, Math.round((width / ratio - height) / 2));
		this.#set({ left: across, right: across, top: down, bottom: down });
		this.#fit();
	}

	#set(margins) {
		const [width, height] = this.view.picture.size;
		const within = (margin, side) => Math.max(0, Math.min(side * MOST_ENLARGED, Math.round(margin)));
		this.margins = { left: within(margins.left, width), right: within(margins.right, width), top: within(margins.top, height), bottom: within(margins.bottom, height) };
		// The new sides divide by what models work in, where something is added to them.
		if (this.margins.right) this.margins.right += pad(this.size[0]);
		if (this.margins.bottom) this.margins.bottom += pad(this.size[1]);
		this.#show();
		this.dispatchEvent(new Event("change"));
	}

	#show() {
		$("frame").hidden = !this.isOpen;
		if (!this.isOpen) return;
		const { left, top } = this.margins, size = this.size;
		this.view.place($("frame"), [-left, -top, ...size]);
		$("extend-size").textContent = this.isAny ? `${size[0]} × ${size[1]}, ${megapixels(size[0] * size[1])} megapixels` : "Drag a side";
		$("extend-apply").disabled = !this.isAny;
	}

	#handle(name) {
		const button = element("button", { type: "button" }), [across, down] = HANDLES[name];
		button.setAttribute("aria-label", `Move the ${NAMES[name]}`);
		Object.assign(button.style, { left: `${across * 100}%`, top: `${down * 100}%`, cursor: `${name}-resize` });
		let last = null, margins = null;
		button.addEventListener("pointerdown", (event) => {
			event.preventDefault();
			button.setPointerCapture(event.pointerId);
			last = event;
			margins = { ...this.margins };
		});
		button.addEventListener("pointermove", (event) => {
			if (last) this.#drag(name, margins, (event.clientX - last.clientX) / this.view.scale, (event.clientY - last.clientY) / this.view.scale);
		});
		for (const end of ["pointerup", "pointercancel"]) button.addEventListener(end, () => { last = null; });
		button.addEventListener("keydown", (event) => {
			const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
			if (!arrow) return;
			event.preventDefault();
			this.#drag(name, this.margins, ...arrow.map((step) => step * 4 * MULTIPLE));
		});
		return button;
	}

	#drag(name, margins, dx, dy) {
		const next = { ...margins };
		if (name.includes("w")) next.left -= dx;
		if (name.includes("e")) next.right += dx;
		if (name.includes("n")) next.top -= dy;
		if (name.includes("s")) next.bottom += dy;
		$("ratio").value = "";
		this.#set(next);
	}
}

function pad(side) {
	return (MULTIPLE - (side % MULTIPLE)) % MULTIPLE;
}

// Fills what is around a picture with its edges, stretched: colours to begin from.
function drawEdges(context, image, left, top, width, height) {
	const { canvas: { width: fullWidth, height: fullHeight } } = context, right = fullWidth - left - width, bottom = fullHeight - top - height;
	const parts = [
		[0, 0, 1, height, 0, top, left, height], [width - 1, 0, 1, height, left + width, top, right, height],
		[0, 0, width, 1, left, 0, width, top], [0, height - 1, width, 1, left, top + height, width, bottom],
		[0, 0, 1, 1, 0, 0, left, top], [width - 1, 0, 1, 1, left + width, 0, right, top],
		[0, height - 1, 1, 1, 0, top + height, left, bottom], [width - 1, height - 1, 1, 1, left + width, top + height, right, bottom],
	];
	for (const part of parts) if (part[6] > 0 && part[7] > 0) context.drawImage(image, ...part);
}

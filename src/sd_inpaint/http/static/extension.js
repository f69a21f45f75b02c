// A picture beyond its borders: a frame to drag, a padded picture, and a mask of what is new with an overlap into what is old.

import { $, all, aria, arrowOf, element, on } from "./dom.js";
import { clamp, decode, drawing, stemOf, toFile, Picture } from "./picture.js";
import { megapixels } from "./words.js";

const QUARTER = 0.25;
const ROOM = 0.2; // of the shorter side
const OVERLAP = 0.05; // of the shorter side: what the model may change of the old picture, fading out
const MOST_OVERLAP = 48; // pixels
const MULTIPLE = 8; // the sides of models' canvases
const MOST_ENLARGED = 3; // times a side
const SIDES = [-1, 0, 1];
const NONE = { left: 0, top: 0, right: 0, bottom: 0 };

export class Extension {
	margins = NONE; // in the picture's pixels
	isOpen = false;

	constructor(view) {
		this.view = view;
		on(view, "change", () => this.#show());
		$.frame.append(...SIDES.flatMap((down) => SIDES.map((across) => across || down ? this.#handle(across, down) : "")));
		for (const button of all("[data-side]")) button.onclick = () => this.#grow(button.dataset.side);
		$.ratio.onchange = () => this.#shape(...$.ratio.value.split(":"));
	}

	open() {
		this.isOpen = true;
		this.#set(NONE);
		this.#fit();
	}

	close() {
		if (!this.isOpen) return;
		this.isOpen = false;
		$.frame.hidden = true;
		this.view.fit();
	}

	get size() {
		const { left, top, right, bottom } = this.margins, [width, height] = this.view.picture.size;
		return [width + left + right, height + top + bottom];
	}

	// The padded picture as a document: its edges drawn on, and a mark for what is new.
	async make() {
		const { picture } = this.view, [width, height] = picture.size, box = [this.margins.left, this.margins.top, width, height];
		const image = picture.isWhole ? picture.levels[0] : await decode(picture.shown);
		if ((image.naturalWidth ?? image.width) !== width) {
			throw new Error("This browser cannot read that file itself, so the page cannot extend it. Save it as a JPEG or PNG first.");
		}
		const context = drawing(...this.size, { alpha: picture.hasAlpha });
		drawWithEdges(context, image, box);
		const overlap = Math.round(Math.min(MOST_OVERLAP, Math.min(width, height) * OVERLAP));
		const record = { file: await toFile(context.canvas), name: `${stemOf(picture.name)}.png`, marks: [{ kind: "border", box, overlap }] };
		return { record, picture: await Picture.open(record) };
	}

	// Leaves room around the frame, to drag into.
	#fit() {
		const { left, top } = this.margins, [width, height] = this.size, room = Math.min(width, height) * ROOM;
		this.view.fit([-left - room, -top - room, width + 2 * room, height + 2 * room]);
	}

	#grow(side) {
		const [width, height] = this.view.picture.size, length = side === "left" || side === "right" ? width : height;
		this.#set({ ...this.margins, [side]: this.margins[side] + length * QUARTER });
		this.#fit();
	}

	// The smallest frame of a shape around the picture, which stays in its middle.
	#shape(wide, high = 1) {
		if (!wide) return;
		const [width, height] = this.view.picture.size, across = ((height * wide) / high - width) / 2, down = ((width * high) / wide - height) / 2;
		this.#set({ left: across, right: across, top: down, bottom: down }, true);
		this.#fit();
	}

	#set({ left, top, right, bottom }, isShaped) {
		const [width, height] = this.view.picture.size, within = (margin, side) => clamp(Math.round(margin), 0, side * MOST_ENLARGED);
		this.margins = { left: within(left, width), right: within(right, width), top: within(top, height), bottom: within(bottom, height) };
		// The new sides divide by what models work in, where something is added to them.
		if (this.margins.right) this.margins.right += padding(this.size[0]);
		if (this.margins.bottom) this.margins.bottom += padding(this.size[1]);
		if (!isShaped) $.ratio.value = "";
		this.#show();
	}

	#show() {
		$.frame.hidden = !this.isOpen;
		if (!this.isOpen) return;
		const { left, top } = this.margins, [width, height] = this.size, isAny = Object.values(this.margins).some(Boolean);
		this.view.place($.frame, [-left, -top, width, height]);
		$["extend-size"].textContent = isAny ? `${width} × ${height}, ${megapixels(width * height)} megapixels` : "Drag a side";
		$["extend-apply"].disabled = !isAny;
	}

	#handle(across, down) {
		const button = element("button");
		const words = [["upper", "", "lower"][down + 1], ["left", "", "right"][across + 1], across && down ? "corner" : "side"];
		aria(button, { label: `Move the ${words.filter(Boolean).join(" ")}` });
		Object.assign(button.style, { left: `${50 + across * 50}%`, top: `${50 + down * 50}%`, cursor: `${["n", "", "s"][down + 1]}${["w", "", "e"][across + 1]}-resize` });
		let start = null, margins = null;
		const drag = ([dx, dy]) => this.#set({
			left: margins.left - (across < 0 ? dx : 0), right: margins.right + (across > 0 ? dx : 0),
			top: margins.top - (down < 0 ? dy : 0), bottom: margins.bottom + (down > 0 ? dy : 0),
		});
		button.onpointerdown = (event) => {
			event.preventDefault();
			button.setPointerCapture(event.pointerId);
			[start, margins] = [event, this.margins];
		};
		button.onpointermove = ({ clientX, clientY }) => {
			if (start) drag([clientX - start.clientX, clientY - start.clientY].map((moved) => moved / this.view.scale));
		};
		on(button, "pointerup pointercancel", () => { start = null; });
		button.onkeydown = (event) => {
			const arrow = arrowOf(event);
			if (!arrow) return;
			event.preventDefault();
			({ margins } = this);
			drag(arrow.map((step) => step * 4 * MULTIPLE));
		};
		return button;
	}
}

const padding = (side) => (MULTIPLE - (side % MULTIPLE)) % MULTIPLE;

// Draws a picture, and around it its edges, stretched: colours to begin from.
function drawWithEdges(context, image, [left, top, width, height]) {
	const { canvas } = context;
	// Where a strip of the picture begins, how wide it is, and the same of where it goes to.
	const columns = [[0, 1, 0, left], [0, width, left, width], [width - 1, 1, left + width, canvas.width - left - width]];
	const rows = [[0, 1, 0, top], [0, height, top, height], [height - 1, 1, top + height, canvas.height - top - height]];
	for (const [x, across, toX, toWidth] of columns) {
		for (const [y, down, toY, toHeight] of rows) if (toWidth && toHeight) context.drawImage(image, x, y, across, down, toX, toY, toWidth, toHeight);
	}
}

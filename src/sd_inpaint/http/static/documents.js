// The pictures that were open, in their order, each with its mask: so that opening one, or going on with a result, can be undone.

import { newKey } from "./dom.js";
import { Mask } from "./mask.js";
import { Picture } from "./picture.js";

const MOST_DOCUMENTS = 12;

export class Documents {
	all = []; // {key, file, shown, size, name, marks, undone}
	at = -1;
	picture; // of the current one
	mask;

	// Calls `onPicture` when another one is on the stage, `onMask` when its mask has changed.
	constructor(onPicture, onMask) {
		Object.assign(this, { onPicture, onMask });
	}

	get current() {
		return this.all[this.at];
	}

	// Puts a picture on the stage; what was there can be had back.
	async open(record, picture) {
		const opened = picture ?? await Picture.open(record);
		this.#keepMask();
		this.all = [...this.all.slice(0, this.at + 1), { key: newKey(), marks: [], undone: [], ...record, size: opened.size }].slice(-MOST_DOCUMENTS);
		this.at = this.all.length - 1;
		await this.#show(opened);
	}

	async restore(all, at) {
		Object.assign(this, { all, at });
		if (this.current) await this.#show(await Picture.open(this.current));
	}

	get canUndo() {
		return Boolean(this.mask?.marks.length) || this.at > 0;
	}

	get canRedo() {
		return Boolean(this.mask?.undone.length) || this.at < this.all.length - 1;
	}

	// Takes back the last mark, else the last opening of a picture.
	async undo() {
		if (this.mask?.marks.length) this.mask.undo();
		else if (this.canUndo) await this.#goTo(this.at - 1);
	}

	async redo() {
		if (this.mask?.undone.length) this.mask.redo();
		else if (this.canRedo) await this.#goTo(this.at + 1);
	}

	isAt({ key }) {
		return this.current?.key === key;
	}

	// Goes to a picture if it is still among them; says whether it is.
	async goTo({ key }) {
		const index = this.all.findIndex((each) => each.key === key);
		if (index >= 0 && index !== this.at) await this.#goTo(index);
		return index >= 0;
	}

	// All of them as they are now, for the store.
	get stored() {
		this.#keepMask();
		return { all: this.all, at: this.at };
	}

	async #goTo(index) {
		const picture = await Picture.open(this.all[index]);
		this.#keepMask();
		this.at = index;
		await this.#show(picture);
	}

	#keepMask() {
		if (this.mask) Object.assign(this.current, this.mask.stored);
	}

	async #show(picture) {
		const { marks, undone } = this.current;
		Object.assign(this, { picture, mask: new Mask(picture.size, [...marks], [...undone]) });
		await this.mask.restore();
		this.mask.changed = this.onMask;
		this.onPicture();
	}
}

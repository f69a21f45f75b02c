// The pictures that were open, in their order, each with its mask: so that opening one, or going on with a result, can be undone.

import { Mask } from "./mask.js";
import { Picture } from "./picture.js";

const MOST_DOCUMENTS = 12;

export class Documents extends EventTarget {
	all = []; // {key, file, shown, size, name, marks, undone}
	at = -1;
	picture = null; // of the current one
	mask = null;

	get current() {
		return this.all[this.at] ?? null;
	}

	// Puts a picture on the stage; what was there can be had back.
	async open(record, picture = null) {
		const opened = picture ?? await Picture.open(record);
		this.#keepMask();
		this.all.length = this.at + 1;
		this.all.push({ key: Math.random().toString(36).slice(2), marks: [], undone: [], ...record, size: opened.size });
		if (this.all.length > MOST_DOCUMENTS) this.all.shift();
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
		else if (this.at > 0) await this.#goTo(this.at - 1);
	}

	async redo() {
		if (this.mask?.undone.length) this.mask.redo();
		else if (this.at < this.all.length - 1) await this.#goTo(this.at + 1);
	}

	// Goes to a picture that is still among them; says whether it is.
	async goTo(key) {
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
		if (this.current && this.mask) Object.assign(this.current, this.mask.stored);
	}

	async #show(picture) {
		this.picture = picture;
		this.mask = new Mask(picture.size, [...this.current.marks], [...this.current.undone]);
		await this.mask.restore();
		const changed = () => this.dispatchEvent(new Event("mask"));
		this.mask.addEventListener("change", changed);
		this.mask.addEventListener("ended", changed);
		this.dispatchEvent(new Event("picture"));
	}
}

// What a reload must not lose, in IndexedDB: one record a tab. A new tab takes up what a closed one has left.

import { newKey, on } from "./dom.js";

const DATABASE = "sd-inpaint", TABS = "tabs", FILES = "files", TAB = "sd-inpaint tab", MOST_TABS = 3;
const HELD_MILLISECONDS = 400; // changes come in bursts
const FILE = "file of the store"; // marks where a file stood in a record

export class Store {
	#database;
	#timer;
	#take; // gives what is to be kept
	#names = new WeakMap(); // of files that are kept: each is written once
	#saving = Promise.resolve();

	// Returns what was kept, if anything; works without any where a browser keeps nothing.
	async open(take) {
		this.#take = take;
		try {
			this.#database = await promised(Object.assign(indexedDB.open(DATABASE, 1), {
				onupgradeneeded: ({ target: { result } }) => [TABS, FILES].forEach((name) => result.createObjectStore(name)),
			}));
			return await this.#adopt();
		} catch {
			this.#database = null;
		}
	}

	// Keeps all, soon.
	save() {
		clearTimeout(this.#timer);
		this.#timer = setTimeout(() => this.saveNow(), HELD_MILLISECONDS);
	}

	// Keeps all; done once it is on the disk, or cannot be.
	saveNow() {
		clearTimeout(this.#timer);
		// A full disk: what is here stays here, and a reload has what was kept last.
		this.#saving = this.#saving.then(() => this.#write()).catch(() => { this.#names = new WeakMap(); });
		return this.#saving;
	}

	async #write() {
		if (!this.#database) return;
		const used = new Set(), fresh = new Map();
		const record = mapped(this.#take(), (value) => value instanceof Blob, (file) => {
			const name = this.#names.get(file) ?? `${this.id}/${newKey()}`;
			if (!this.#names.has(file)) fresh.set(name, file);
			this.#names.set(file, name);
			used.add(name);
			return { [FILE]: name };
		});
		const transaction = this.#database.transaction([TABS, FILES], "readwrite"), files = transaction.objectStore(FILES);
		for (const [name, file] of fresh) files.put(file, name);
		transaction.objectStore(TABS).put({ ...record, savedAt: Date.now() }, this.id);
		for (const name of await promised(files.getAllKeys(ofTab(this.id)))) if (!used.has(name)) files.delete(name);
		await new Promise((resolve, reject) => Object.assign(transaction, { oncomplete: resolve, onabort: reject }));
	}

	#table(name, mode = "readonly") {
		return this.#database.transaction(name, mode).objectStore(name);
	}

	// All of a table, or a part of it, as a map.
	async #all(name, range) {
		const table = this.#table(name), [keys, values] = await Promise.all([table.getAllKeys(range), table.getAll(range)].map(promised));
		return new Map(keys.map((key, i) => [key, values[i]]));
	}

	async #adopt() {
		const tabs = await this.#all(TABS), newest = [...tabs.keys()].sort((one, other) => tabs.get(other).savedAt - tabs.get(one).savedAt);
		const state = (id) => localStorage.getItem(`${TAB} ${id}`);
		this.id = sessionStorage.getItem(TAB);
		// A tab that was duplicated has the other one's name.
		if (this.id && state(this.id) === "open" && performance.getEntriesByType("navigation")[0]?.type === "navigate") this.id = null;
		this.id ??= newest.find((id) => state(id) === "closed") ?? newKey();
		sessionStorage.setItem(TAB, this.id);
		const note = (word) => localStorage.setItem(`${TAB} ${this.id}`, word);
		note("open");
		on(window, "pagehide", () => note("closed"));
		on(window, "pageshow", () => note("open"));
		for (const id of newest.filter((each) => each !== this.id).slice(MOST_TABS)) {
			this.#table(TABS, "readwrite").delete(id);
			this.#table(FILES, "readwrite").delete(ofTab(id));
			localStorage.removeItem(`${TAB} ${id}`);
		}
		const files = await this.#all(FILES, ofTab(this.id));
		for (const [name, file] of files) this.#names.set(file, name);
		return mapped(tabs.get(this.id), (value) => value?.[FILE], (value) => files.get(value[FILE]));
	}
}

const ofTab = (id) => IDBKeyRange.bound(`${id}/`, `${id}0`); // "0" comes after "/"

// A copy of plain data in which some values are replaced, at any depth.
function mapped(value, isMeant, replace) {
	if (isMeant(value)) return replace(value);
	if (Array.isArray(value)) return value.map((each) => mapped(each, isMeant, replace));
	if (!value || typeof value !== "object" || value instanceof Blob) return value;
	return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, mapped(each, isMeant, replace)]));
}

const promised = (request) => new Promise((resolve, reject) => Object.assign(request, { onsuccess: () => resolve(request.result), onerror: () => reject(request.error) }));

// What a reload must not lose, in IndexedDB: one record a tab. A new tab takes up what a closed one has left.

const DATABASE = "sd-inpaint", TABS = "tabs", FILES = "files", TAB = "sd-inpaint tab", MOST_TABS = 3;
const HELD_MILLISECONDS = 400; // changes come in bursts
const FILE = "file of the store"; // marks where a file stood in a record

export class Store {
	#database = null;
	#timer = null;
	#take = null; // gives what is to be kept
	#names = new WeakMap(); // of files that are kept: each is written once
	#saving = Promise.resolve();

	// Returns what was kept, or null; works without any where a browser keeps nothing.
	async open(take) {
		this.#take = take;
		try {
			this.#database = await promised(Object.assign(indexedDB.open(DATABASE, 1), {
				onupgradeneeded: ({ target: { result } }) => [TABS, FILES].forEach((name) => result.createObjectStore(name)),
			}));
			return await this.#adopt();
		} catch {
			this.#database = null;
			return null;
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
		this.#saving = this.#saving.then(() => this.#write()).catch(() => {});
		return this.#saving;
	}

	async #write() {
		if (!this.#database) return;
		const used = new Set(), fresh = [];
		const record = mapped(this.#take(), (value) => value instanceof Blob, (file) => {
			if (!this.#names.has(file)) {
				this.#names.set(file, `${this.id}/${Math.random().toString(36).slice(2)}`);
				fresh.push(file);
			}
			used.add(this.#names.get(file));
			return { [FILE]: this.#names.get(file) };
		});
		const transaction = this.#database.transaction([TABS, FILES], "readwrite"), files = transaction.objectStore(FILES);
		for (const file of fresh) files.put(file, this.#names.get(file));
		transaction.objectStore(TABS).put({ ...record, savedAt: Date.now() }, this.id);
		for (const name of await promised(files.getAllKeys(ofTab(this.id)))) if (!used.has(name)) files.delete(name);
		await new Promise((resolve, reject) => Object.assign(transaction, { oncomplete: resolve, onabort: reject }));
	}

	#table(name, mode = "readonly") {
		return this.#database.transaction(name, mode).objectStore(name);
	}

	async #read() {
		const record = await promised(this.#table(TABS).get(this.id));
		if (!record) return null;
		const names = await promised(this.#table(FILES).getAllKeys(ofTab(this.id)));
		const kept = await promised(this.#table(FILES).getAll(ofTab(this.id)));
		const files = new Map(names.map((name, i) => [name, kept[i]]));
		for (const [name, file] of files) this.#names.set(file, name);
		return mapped(record, (value) => value?.[FILE], (value) => files.get(value[FILE]));
	}

	async #adopt() {
		const keys = await promised(this.#table(TABS).getAllKeys()), records = await promised(this.#table(TABS).getAll());
		const newest = keys.map((key, i) => ({ key, savedAt: records[i].savedAt })).sort((one, other) => other.savedAt - one.savedAt);
		const state = (key) => localStorage.getItem(`${TAB} ${key}`);
		this.id = sessionStorage.getItem(TAB);
		// A tab that was duplicated has the other one's name.
		if (this.id && state(this.id) === "open" && performance.getEntriesByType("navigation")[0]?.type === "navigate") this.id = null;
		this.id ??= newest.find(({ key }) => state(key) === "closed")?.key ?? Math.random().toString(36).slice(2);
		sessionStorage.setItem(TAB, this.id);
		const note = (word) => localStorage.setItem(`${TAB} ${this.id}`, word);
		note("open");
		addEventListener("pagehide", () => note("closed"));
		addEventListener("pageshow", () => note("open"));
		for (const { key } of newest.filter((each) => each.key !== this.id).slice(MOST_TABS)) {
			this.#table(TABS, "readwrite").delete(key);
			this.#table(FILES, "readwrite").delete(ofTab(key));
			localStorage.removeItem(`${TAB} ${key}`);
		}
		return this.#read();
	}
}

function ofTab(id) {
	return IDBKeyRange.bound(`${id}/`, `${id}0`); // "0" comes after "/"
}

// A copy of plain data in which some values are replaced, at any depth.
function mapped(value, isMeant, replace) {
	if (isMeant(value)) return replace(value);
	if (Array.isArray(value)) return value.map((each) => mapped(each, isMeant, replace));
	if (value === null || typeof value !== "object" || value instanceof Blob) return value;
	return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, mapped(each, isMeant, replace)]));
}

function promised(request) {
	return new Promise((resolve, reject) => Object.assign(request, { onsuccess: () => resolve(request.result), onerror: () => reject(request.error) }));
}

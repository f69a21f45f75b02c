// Files that come in: chosen, dropped, pasted; checked against the server's limits before anything is replaced.

import { $, on, takesText } from "./dom.js";
import { say, warn } from "./notice.js";
import { Picture } from "./picture.js";
import { explain, megabytes, megapixels } from "./words.js";

const PICTURES = /\.(jpe?g|png|webp|avif|heic|heif|gif|bmp|tiff?)$/i;
let openings = 0; // the newest wins

// Reads a picture, by the browser's means or else by the service's, which knows more formats. Null, and a word, if there is none.
export async function read(file, service, { max_body_bytes: mostBytes = Infinity, max_pixels: mostPixels = Infinity } = {}) {
	const opening = ++openings, record = { file, name: file.name || "picture.png" };
	const refuse = (words) => { warn(`“${record.name}” ${words}`, "opening"); return null; };
	if (file.type && !file.type.startsWith("image/") && !PICTURES.test(file.name)) return refuse("is not a picture.");
	if (file.size > mostBytes) return refuse(`has ${megabytes(file.size)} MB, and this server takes ${megabytes(mostBytes)}. A JPEG of it is smaller.`);
	let picture;
	try {
		picture = await Picture.open(record);
	} catch {
		try {
			say("This browser cannot show that file. Asking the server…", { topic: "opening" });
			Object.assign(record, await service.preview(file));
			picture = await Picture.open(record);
		} catch (error) {
			return refuse(`could not be opened. ${explain(error)}`);
		}
	}
	const pixels = picture.size[0] * picture.size[1];
	if (pixels > mostPixels) return refuse(`has ${megapixels(pixels)} megapixels, and this server takes ${megapixels(mostPixels)}.`);
	return opening === openings ? { record, picture } : null;
}

// Calls back with the file that somebody chooses in a field.
export function watchField(field, take) {
	field.onchange = () => {
		const [file] = field.files;
		field.value = "";
		if (file) take(file);
	};
}

// Has `take` get each file that somebody chooses, drops or pastes.
export function watchFiles(take) {
	for (const id of ["open", "choose"]) $[id].onclick = () => $.file.click();
	watchField($.file, take);
	on(window, "paste", (event) => {
		const { files: [file], types } = event.clipboardData;
		// Text that comes with a picture of itself, as from a spreadsheet, belongs into the field.
		if (!file || (takesText(event.target) && types.includes("text/plain"))) return;
		event.preventDefault();
		take(file);
	});
	let depth = 0;
	const over = (change) => {
		depth = Math.max(0, depth + change);
		document.body.classList.toggle("over", depth > 0);
	};
	on(window, "dragenter", () => over(1));
	on(window, "dragleave", () => over(-1));
	on(window, "dragover", (event) => event.preventDefault());
	on(window, "drop", (event) => {
		event.preventDefault();
		over(-depth);
		const [file] = event.dataTransfer.files;
		if (file) take(file);
		else warn("That is not a picture's file. Save the picture first, or copy it and paste it here.");
	});
}

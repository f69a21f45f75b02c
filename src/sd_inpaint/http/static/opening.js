// Files that come in: chosen, dropped, pasted; checked against the server's limits before anything is replaced.

import { $, takesText } from "./element.js";
import { say } from "./notice.js";
import { Picture } from "./picture.js";
import { explain, megabytes, megapixels } from "./words.js";

const PICTURES = /\.(jpe?g|png|webp|avif|heic|heif|gif|bmp|tiff?)$/i;
let openings = 0; // the newest wins

// What is wrong with a file for this server, in words; an empty text if nothing is.
function objection(file, size, limits) {
	if (limits?.max_body_bytes && file.size > limits.max_body_bytes) return `“${file.name}” has ${megabytes(file.size)} MB, and this server takes ${megabytes(limits.max_body_bytes)}. A JPEG of it is smaller.`;
	const pixels = size ? size[0] * size[1] : 0;
	if (limits?.max_pixels && pixels > limits.max_pixels) return `“${file.name}” has ${megapixels(pixels)} megapixels, and this server takes ${megapixels(limits.max_pixels)}.`;
	return "";
}

// Reads a picture, by the browser's means or else by the service's, which knows more formats. Null, and a word, if there is none.
export async function read(file, service, limits) {
	const opening = ++openings;
	if (file.type && !file.type.startsWith("image/") && !PICTURES.test(file.name)) return refuse(`“${file.name}” is not a picture.`);
	const tooLarge = objection(file, null, limits);
	if (tooLarge) return refuse(tooLarge);
	const record = { file, shown: file, name: file.name || "picture.png" };
	let picture;
	try {
		picture = await Picture.open(record);
	} catch {
		try {
			say("This browser cannot show that file. Asking the server…", { topic: "opening" });
			const { file: shown, size } = await service.preview(file);
			Object.assign(record, { shown, size });
			picture = await Picture.open(record);
		} catch (error) {
			return refuse(`“${record.name}” could not be opened. ${explain(error)}`);
		}
	}
	const tooMany = objection(record.file, picture.size, limits);
	if (tooMany) return refuse(tooMany);
	return opening === openings ? { record, picture } : null;
}

function refuse(text) {
	say(text, { tone: "wrong", topic: "opening" });
	return null;
}

// Has `take` get each file that somebody chooses, drops or pastes.
export function watchFiles(take) {
	const input = $("file"), choose = () => input.click();
	$("open").addEventListener("click", choose);
	$("choose").addEventListener("click", choose);
	input.addEventListener("change", () => {
		const [file] = input.files;
		input.value = "";
		if (file) take(file);
	});
	addEventListener("paste", (event) => {
		const [file] = event.clipboardData.files;
		// Text that comes with a picture of itself, as from a spreadsheet, belongs into the field.
		if (!file || (takesText(event.target) && event.clipboardData.types.includes("text/plain"))) return;
		event.preventDefault();
		take(file);
	});
	let depth = 0;
	const over = (change) => {
		depth = Math.max(0, depth + change);
		document.body.classList.toggle("over", depth > 0);
	};
	addEventListener("dragenter", () => over(1));
	addEventListener("dragleave", () => over(-1));
	addEventListener("dragover", (event) => event.preventDefault());
	addEventListener("drop", (event) => {
		event.preventDefault();
		over(-depth);
		const [file] = event.dataTransfer.files;
		if (file) take(file);
		else say("That is not a picture's file. Save the picture first, or copy it and paste it here.", { tone: "wrong" });
	});
}

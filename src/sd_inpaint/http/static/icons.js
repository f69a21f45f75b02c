// The icons, drawn here, as paths on a field of 24 by 24; a second one is solid or made of dots.

import { all, aria } from "./dom.js";

const ICONS = {
	brush: "M20.5 3.5c-3 .6-7.6 4.6-10 8l2.5 2.5c3.4-2.4 7.4-7 8-10zM10 12.5c-2.7-.3-4.3 1.4-4.6 3.6-.2 1.7-1 2.7-2.4 3.4 3.5 1.3 8.6.6 9.2-4.6",
	eraser: "m8.5 19.5-4.7-4.7a1.5 1.5 0 010-2.1l8.4-8.4a1.5 1.5 0 012.1 0l5.4 5.4a1.5 1.5 0 010 2.1l-7.7 7.7zM7.5 9l7.5 7.5M8.5 19.5H20",
	rectangle: "M4 8V5.5A1.5 1.5 0 015.5 4H8m3 0h2m3 0h2.5A1.5 1.5 0 0120 5.5V8m0 3v2m0 3v2.5a1.5 1.5 0 01-1.5 1.5H16m-3 0h-2m-3 0H5.5A1.5 1.5 0 014 18.5V16m0-3v-2",
	lasso: "M7 14.5C4.8 13.4 3.5 11.8 3.5 10c0-3.3 3.8-6 8.5-6s8.5 2.7 8.5 6-3.8 6-8.5 6c-1 0-2-.1-2.9-.4M6 15.5a2 2 0 104 0a2 2 0 10-4 0M7.5 17.5c.3 1.5-.5 2.7-2 3",
	hand: "M8 12.5V6a1.5 1.5 0 013 0v5-6.5a1.5 1.5 0 013 0V11 6a1.5 1.5 0 013 0v8.5c0 3.5-2.2 6-5.5 6-3 0-4.3-1.5-5.5-3.8L4 13a1.4 1.4 0 012.4-1.4z",
	extend: "M9 8h6a1 1 0 011 1v6a1 1 0 01-1 1h-6a1 1 0 01-1-1v-6a1 1 0 011-1zM12 5V2.5M10.5 4 12 2.5 13.5 4M12 19v2.5m-1.5-1.5 1.5 1.5 1.5-1.5M5 12H2.5M4 10.5 2.5 12 4 13.5M19 12h2.5M20 10.5l1.5 1.5-1.5 1.5",
	invert: ["M3.5 12a8.5 8.5 0 1017 0a8.5 8.5 0 10-17 0", "solid", "M12 3.5a8.5 8.5 0 010 17z"],
	more: ["", "dots", "M5 12h.01M12 12h.01M19 12h.01"],
	clear: "M4.5 7h15M9.5 7V4.5h5V7M6.5 7l.8 12.5h9.4L17.5 7M10.3 10.5v6M13.7 10.5v6",
	open: "M20 13v5.5a1.5 1.5 0 01-1.5 1.5h-13A1.5 1.5 0 014 18.5v-13A1.5 1.5 0 015.5 4H11M4 16.5l4.5-4.5 4 4 2-2 3.5 3.5M18 3v6m-3-3h6",
	undo: "M8.5 5 4.5 9l4 4M4.5 9H14a5.5 5.5 0 010 11H9",
	redo: "m15.5 5 4 4-4 4M19.5 9H10a5.5 5.5 0 000 11h5",
	"zoom-out": "M6 12h12",
	"zoom-in": "M6 12h12M12 6v12",
	help: "M9 9a3 3 0 114.3 2.7c-.9.5-1.3 1-1.3 2M12 17.3v.01M3 12a9 9 0 1018 0a9 9 0 10-18 0",
	settings: "M4 7h9M18 7h2M4 17h2M11 17h9M13.2 7a2.3 2.3 0 104.6 0a2.3 2.3 0 10-4.6 0M6.2 17a2.3 2.3 0 104.6 0a2.3 2.3 0 10-4.6 0",
	download: "M12 4v11m-4.5-4.5L12 15l4.5-4.5M5 19.5h14",
	copy: "M10 8.5h8.5a1.5 1.5 0 011.5 1.5v8.5a1.5 1.5 0 01-1.5 1.5h-8.5a1.5 1.5 0 01-1.5-1.5v-8.5a1.5 1.5 0 011.5-1.5zM15.5 5.5a1.5 1.5 0 00-1.5-1.5H5.5A1.5 1.5 0 004 5.5V14a1.5 1.5 0 001.5 1.5",
	again: ["M7.5 4h9a3.5 3.5 0 013.5 3.5v9a3.5 3.5 0 01-3.5 3.5h-9a3.5 3.5 0 01-3.5-3.5v-9a3.5 3.5 0 013.5-3.5z", "dots", "M8.5 8.5h.01M15.5 8.5h.01M12 12h.01M8.5 15.5h.01M15.5 15.5h.01"],
	use: "M5 12.5 10 17.5 19.5 7",
	back: "M10 5.5 3.5 12l6.5 6.5M4 12h16.5",
	before: "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM9.2 12a2.8 2.8 0 105.6 0a2.8 2.8 0 10-5.6 0",
	close: "m6 6 12 12M18 6 6 18",
	lock: "M7 10.5h10a2 2 0 012 2v5.5a2 2 0 01-2 2h-10a2 2 0 01-2-2v-5.5a2 2 0 012-2zM8 10.5V8a4 4 0 018 0v2.5",
};

// Puts its icon into everything that names one, or is named like one; what has an icon and no text is called by its title.
export function drawIcons() {
	for (const each of all("[data-icon]")) {
		const { icon, tool } = each.dataset, [plain, kind = "", more = ""] = [ICONS[icon || tool || each.id]].flat();
		if (!each.textContent) aria(each, { label: each.title.split(" (")[0] });
		each.insertAdjacentHTML("afterbegin", `<svg viewBox="0 0 24 24"><path d="${plain}"/><path class="${kind}" d="${more}"/></svg>`);
	}
}

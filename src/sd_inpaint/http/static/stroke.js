// A stroke of the brush: a line with a hard edge, or stamps with a soft one.

import { drawing } from "./picture.js";

const SPACING = 0.08; // between stamps, in widths of the brush
const STAMP_PIXELS = 256;
const stamps = new Map(); // softness → canvas

// Draws a stroke from one of its points on.
export function drawStroke(context, stroke, from, trail) {
	context.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
	if (stroke.softness) drawStamps(context, stroke, from, trail);
	else drawLine(context, stroke, from);
}

// The part of the picture that a stroke covers from one of its points on: left, top, width, height.
export function extent({ points, width }, from) {
	const drawn = points.slice(from), [left, top] = [0, 1].map((i) => Math.min(...drawn.map((point) => point[i])) - width / 2 - 1);
	const [right, bottom] = [0, 1].map((i) => Math.max(...drawn.map((point) => point[i])) + width / 2 + 1);
	return [left, top, right - left, bottom - top];
}

function drawLine(context, { points, width }, from) {
	const [[x, y], ...rest] = points.slice(from);
	Object.assign(context, { strokeStyle: "white", lineWidth: width, lineCap: "round", lineJoin: "round" });
	context.beginPath();
	context.moveTo(x, y);
	// A line of no length is a dot, which no browser has to draw.
	if (!rest.length) context.lineTo(x + 0.01, y);
	for (const point of rest) context.lineTo(...point);
	context.stroke();
}

function drawStamps(context, { points, width, softness }, from, trail) {
	const stamp = stampOf(softness), spacing = Math.max(0.5, width * SPACING);
	const put = (x, y) => context.drawImage(stamp, x - width / 2, y - width / 2, width, width);
	if (from === 0) {
		put(...points[0]);
		trail.rest = spacing;
	}
	for (let i = from + 1; i < points.length; i++) {
		const [x, y] = points[i - 1], dx = points[i][0] - x, dy = points[i][1] - y, length = Math.hypot(dx, dy);
		let at = trail.rest;
		for (; at <= length; at += spacing) put(x + (dx * at) / length, y + (dy * at) / length);
		trail.rest = at - length;
	}
}

function stampOf(softness) {
	if (!stamps.has(softness)) {
		const context = drawing(STAMP_PIXELS, STAMP_PIXELS), middle = STAMP_PIXELS / 2;
		const slope = context.createRadialGradient(middle, middle, middle * (1 - softness), middle, middle, middle);
		// Stamps add up along a line, which hardens its edge; a steep slope leaves it soft.
		for (let i = 0; i <= 10; i++) slope.addColorStop(i / 10, `rgba(255,255,255,${(0.5 + Math.cos((Math.PI * i) / 10) / 2) ** 2})`);
		context.fillStyle = slope;
		context.fillRect(0, 0, STAMP_PIXELS, STAMP_PIXELS);
		stamps.set(softness, context.canvas);
	}
	return stamps.get(softness);
}

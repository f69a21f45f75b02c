// A stroke of the brush: a line with a hard edge, or stamps with a soft one.

const SPACING = 0.08; // between stamps, in widths of the brush
const STAMP_PIXELS = 256;
const stamps = new Map(); // softness → canvas

// Draws a stroke from one of its points on.
export function drawStroke(context, stroke, from, trail) {
	context.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
	if (stroke.softness) drawStamps(context, stroke, from, trail);
	else drawLine(context, stroke, from);
}

// The part of the picture that a stroke covers from one of its points on: left, top, right, bottom.
export function extent(stroke, from) {
	const points = stroke.points.slice(from), radius = stroke.width / 2 + 1;
	const xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
	return [Math.min(...xs) - radius, Math.min(...ys) - radius, Math.max(...xs) + radius, Math.max(...ys) + radius];
}

function drawLine(context, { points, width }, from) {
	context.strokeStyle = "white";
	context.lineWidth = width;
	context.lineCap = context.lineJoin = "round";
	context.beginPath();
	context.moveTo(...points[from]);
	// A line of no length is a dot, which no browser has to draw.
	if (points.length - from === 1) context.lineTo(points[from][0] + 0.01, points[from][1]);
	for (const point of points.slice(from + 1)) context.lineTo(...point);
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
		const canvas = document.createElement("canvas"), middle = STAMP_PIXELS / 2;
		canvas.width = canvas.height = STAMP_PIXELS;
		const context = canvas.getContext("2d"), slope = context.createRadialGradient(middle, middle, middle * (1 - softness), middle, middle, middle);
		// Stamps add up along a line, which hardens its edge; a steep slope leaves it soft.
		for (let i = 0; i <= 10; i++) slope.addColorStop(i / 10, `rgba(255,255,255,${(0.5 + Math.cos((Math.PI * i) / 10) / 2) ** 2})`);
		context.fillStyle = slope;
		context.fillRect(0, 0, STAMP_PIXELS, STAMP_PIXELS);
		stamps.set(softness, canvas);
	}
	return stamps.get(softness);
}

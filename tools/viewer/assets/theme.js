// Colours of both themes, sizes of both type sizes, and numbers as people read them.

const COLOURS = {  // name of a kind or a stall reason -> [dark, light]
  issue: ['#4c8dff', '#2f6fe0'],
  fixed_latency: ['#d1ab3b', '#b8901f'], global_memory: ['#e8604c', '#d1432e'], shared_memory: ['#f0944a', '#dd7a28'],
  copy_wait: ['#e2558a', '#c63470'], mbarrier: ['#c56ad8', '#a548bb'], unit_busy: ['#9dbb45', '#7d9b27'],
  memory_queue: ['#b96a4b', '#9c4c2c'], barrier: ['#9273f0', '#7450d8'], launch: ['#6f7f96', '#8593a8'],
  no_warp: ['#48546a', '#b3bdcc'], idle: ['#232b38', '#e4e8ef'],
  start_barrier: ['#6f7f96', '#8593a8'], data: ['#e8604c', '#d1432e'], stream: ['#f0944a', '#dd7a28'],
  port: ['#e2558a', '#c63470'], unit: ['#9dbb45', '#7d9b27'], order: ['#d1ab3b', '#b8901f'],
  no_work: ['#48546a', '#b3bdcc'], network: ['#c56ad8', '#a548bb'], pipeline: ['#5b6d8a', '#9aa8bd'],
  copy: ['#2bb6a3', '#148c7c'], shared_read: ['#46b8dc', '#1f93b8'], shared_write: ['#3f8fd8', '#2271b8'],
  l1_read: ['#45c08a', '#249a67'], l2_read: ['#5dbb55', '#3d9636'], l2_write: ['#93b83f', '#71941f'],
  l2_fill: ['#b3cc5a', '#8fa832'], hbm_read: ['#36c5c0', '#12958f'], hbm_write: ['#dda23a', '#bb8017'],
  nvlink: ['#b57bee', '#9353d6'], kernel: ['#7f8ea3', '#7f8ea3'], sram_read: ['#45c08a', '#249a67'],
  sram_write: ['#93b83f', '#71941f'], mxm_ingest: ['#36c5c0', '#12958f'], c2c_sent: ['#b57bee', '#9353d6'],
};

const ui = {
  light: false,
  large: false,
  get unit() { return this.large ? 1.5 : 1; },
  font(size, bold) { return `${bold ? '600 ' : ''}${Math.round(size * this.unit)}px system-ui, sans-serif`; },
};

function hue(text) {  // a stable colour of a name
  let h = 2166136261;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 16777619);
  return (h >>> 0) % 360;
}

function hslHex(h, s, l) {
  const a = s * Math.min(l, 1 - l);
  const f = (n) => {
    const k = (n + h / 30) % 12;
    return Math.round(255 * (l - a * Math.max(-1, Math.min(k - 3, 9 - k, 1)))).toString(16).padStart(2, '0');
  };
  return `#${f(0)}${f(8)}${f(4)}`;
}

function colourOf(name) {
  const known = Object.hasOwn(COLOURS, name) ? COLOURS[name] : null;
  if (known) return known[ui.light ? 1 : 0];
  return nameColour(name);
}

function nameColour(name) { return hslHex(hue(name), 0.5, ui.light ? 0.45 : 0.6); }

function packed(hex, alpha = 255) {  // #rrggbb -> a pixel of an ImageData read as 32-bit little-endian numbers
  const v = parseInt(hex.slice(1), 16);
  return ((alpha << 24) | ((v & 255) << 16) | (v & 0xff00) | (v >>> 16)) >>> 0;
}

const cssKnown = new Map();

function cssColour(name) {  // a colour of view.css in the present theme
  const key = `${ui.light} ${name}`;
  if (!cssKnown.has(key)) cssKnown.set(key, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return cssKnown.get(key);
}

const numbers = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const whole = (value) => numbers.format(value);

function significant(value) {
  const size = Math.abs(value);
  if (size >= 99.95) return numbers.format(value);
  return size >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

function scaled(value, steps) {
  for (const [unit, name] of steps) if (Math.abs(value) >= unit) return `${significant(value / unit)} ${name}`;
  const [unit, name] = steps[steps.length - 1];
  return `${significant(value / unit)} ${name}`;
}

const timeText = (ns) => (ns === 0 ? '0' : scaled(ns, [[1e9, 's'], [1e6, 'ms'], [1e3, 'us'], [1, 'ns']]));

function tickText(ns, step) {  // a time with as many digits as tell it from the next tick
  const [unit, name] = [[1e9, 's'], [1e6, 'ms'], [1e3, 'us'], [1, 'ns']].find(([u]) => Math.abs(ns) >= u) || [1, 'ns'];
  const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10(step / unit) - 1e-9)));
  return ns === 0 ? '0' : `${(ns / unit).toFixed(digits)} ${name}`;
}

function bytesText(bytes) {
  if (bytes < 1000) return `${whole(bytes)} B`;
  return scaled(bytes, [[1e12, 'TB'], [1e9, 'GB'], [1e6, 'MB'], [1e3, 'kB']]);
}

const percent = (part, of) => (of ? `${((100 * part) / of).toFixed(1)} %` : '');

// An element with text children only: what comes from a program can never become markup.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'class') made.className = value;
    else if (name === 'onclick') made.addEventListener('click', value);
    else if (name === 'style') Object.assign(made.style, value);
    else made.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) made.append(child instanceof Node ? child : String(child));
  }
  return made;
}

function fill(target, ...children) {
  target.replaceChildren(...children.flat().filter((c) => c !== null && c !== undefined)
    .map((c) => (c instanceof Node ? c : String(c))));
}

// Data of the page -> typed arrays. tools/viewer/pack.py is the other half.

function bytesOfBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function blobOf(id) {
  const element = document.getElementById(id);
  const bytes = await inflate(bytesOfBase64(element.textContent));
  element.remove();  // the text is not needed again
  return bytes;
}

// A column of unsigned numbers: how many planes of bytes, then the planes. [numbers, where the next column begins].
function readColumn(bytes, at, count) {
  const size = bytes[at++];
  const out = new Int32Array(count);
  for (let plane = 0; plane < size; plane++) {
    const shift = 8 * plane;
    for (let i = 0; i < count; i++) out[i] |= bytes[at + i] << shift;
    at += count;
  }
  return [out, at];
}

function unfold(values) {  // 0, 1, 2, 3 -> 0, -1, 1, -2
  for (let i = 0; i < values.length; i++) values[i] = (values[i] >>> 1) ^ -(values[i] & 1);
  return values;
}

function addUp(values, offsets) {  // differences inside each unit -> values
  for (let u = 0; u + 1 < offsets.length; u++) {
    for (let i = offsets[u] + 1; i < offsets[u + 1]; i++) values[i] += values[i - 1];
  }
  return values;
}

// Columns of a trace's events, sorted by unit and start; offsets[u] .. offsets[u + 1] are unit u's.
function unpackEvents(bytes, units, count) {
  let [perUnit, at] = readColumn(bytes, 0, units);
  const offsets = new Int32Array(units + 1);
  for (let u = 0; u < units; u++) offsets[u + 1] = offsets[u] + perUnit[u];
  const column = () => { const [values, next] = readColumn(bytes, at, count); at = next; return unfold(values); };
  const e = { offsets };
  e.start = addUp(column(), offsets);
  e.end = column();
  for (let i = 0; i < count; i++) e.end[i] += e.start[i];
  e.kind = Uint8Array.from(column());
  e.reason = Uint8Array.from(column());
  e.launch = addUp(column(), offsets);
  e.instruction = addUp(column(), offsets);
  e.actor = addUp(column(), offsets);
  e.wait = column();
  e.bytes = column();
  return e;
}

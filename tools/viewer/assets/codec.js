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

// Planes of bytes -> unsigned 32-bit numbers.
function joinPlanes(bytes, at, count) {
  const out = new Int32Array(count);
  const b = at + count, c = b + count, d = c + count;
  for (let i = 0; i < count; i++) {
    out[i] = bytes[at + i] | (bytes[b + i] << 8) | (bytes[c + i] << 16) | (bytes[d + i] << 24);
  }
  return out;
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
  const perUnit = joinPlanes(bytes, 0, units);
  const offsets = new Int32Array(units + 1);
  for (let u = 0; u < units; u++) offsets[u + 1] = offsets[u] + perUnit[u];
  let at = 4 * units;
  const wide = () => { const v = unfold(joinPlanes(bytes, at, count)); at += 4 * count; return v; };
  const narrow = () => { const v = bytes.subarray(at, at + count); at += count; return v; };
  const e = { offsets };
  e.start = addUp(wide(), offsets);
  e.end = wide();
  for (let i = 0; i < count; i++) e.end[i] += e.start[i];
  e.kind = narrow();
  e.reason = narrow();
  e.launch = addUp(wide(), offsets);
  e.instruction = addUp(wide(), offsets);
  e.actor = addUp(wide(), offsets);
  e.wait = wide();
  e.bytes = wide();
  return e;
}

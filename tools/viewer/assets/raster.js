// A picture in a buffer of pixels: far faster than a rectangle call for every bar.
//
// The buffer is a window onto an endless plane: its first pixel is the plane's (left, up), and everything is painted in
// the plane's coordinates, inside `clip`. When the window moves, what both places have in common is moved along.

class Raster {
  constructor() { this.width = 0; this.height = 0; this.left = 0; this.up = 0; this.clip = null; }

  resize(width, height) {
    if (width === this.width && height === this.height) return;
    this.width = width;
    this.height = height;
    this.image = new ImageData(Math.max(1, width), Math.max(1, height));
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  // Move the window without keeping anything. Gives the boxes of the plane that have to be painted: all of it.
  place(left, up) {
    this.left = left;
    this.up = up;
    return [{ x0: left, y0: up, x1: left + this.width, y1: up + this.height }];
  }

  // Move the window and keep what can be kept. Gives the boxes of the plane that have to be painted.
  move(left, up) {
    const dx = left - this.left, dy = up - this.up;
    const [all] = this.place(left, up);
    if (Math.abs(dx) >= this.width || Math.abs(dy) >= this.height) return [all];
    const by = dy * this.width + dx;  // what runs over a row's end lands in the boxes below
    if (by > 0) this.pixels.copyWithin(0, by);
    if (by < 0) this.pixels.copyWithin(-by, 0);
    const boxes = [];
    if (dx) boxes.push(dx > 0 ? { ...all, x0: all.x1 - dx } : { ...all, x1: left - dx });
    if (dy) boxes.push(dy > 0 ? { ...all, y0: all.y1 - dy } : { ...all, y1: up - dy });
    return boxes;
  }

  clear(colour) { const { x0, y0, x1, y1 } = this.clip; this.rect(x0, y0, x1, y1, colour); }

  rect(x0, y0, x1, y1, colour) {
    const { clip, left, up, width, pixels } = this;
    x0 = Math.max(clip.x0, Math.round(x0)) - left;
    x1 = Math.min(clip.x1, Math.round(x1)) - left;
    if (x1 <= x0) return;
    const stop = Math.min(clip.y1, y1) - up;
    for (let y = Math.max(clip.y0, y0) - up; y < stop; y++) pixels.fill(colour, y * width + x0, y * width + x1);
  }

  frame(x0, y0, x1, y1, colour, thick = 1) {
    this.rect(x0, y0, x1, y0 + thick, colour);
    this.rect(x0, y1 - thick, x1, y1, colour);
    this.rect(x0, y0, x0 + thick, y1, colour);
    this.rect(x1 - thick, y0, x1, y1, colour);
  }

  hatch(x0, y0, x1, y1, colour, step) {  // not recorded
    const { clip, left, up, width, pixels } = this;
    x0 = Math.max(clip.x0, Math.round(x0));
    x1 = Math.min(clip.x1, Math.round(x1));
    const stop = Math.min(clip.y1, y1);
    const thick = Math.max(1, step >> 2);
    for (let y = Math.max(clip.y0, y0); y < stop; y++) {
      const at = (y - up) * width - left;
      let phase = (x0 + y) % step;
      if (phase < 0) phase += step;
      for (let x = x0; x < x1; x++) {
        if (phase < thick) pixels[at + x] = colour;
        if (++phase === step) phase = 0;
      }
    }
  }

  // Shares as stacked columns from y1 upwards; what is there is never thinner than a pixel.
  stack(shares, y0, y1, colours) {
    const { clip, up, width, pixels } = this;
    const parts = shares.used.map((c) => shares.part[c]), inks = shares.used.map((c) => colours[c]);
    const count = parts.length, height = y1 - y0, x0 = shares.left - this.left;
    const top = Math.max(clip.y0, y0), bottom = Math.min(clip.y1, y1);
    for (let x = 0; x < shares.columns; x++) {
      let total = 0;
      for (let k = 0; k < count; k++) total += parts[k][x];
      if (total <= 1e-6) continue;
      const scale = total > 1 ? height / total : height;
      let sum = 0, below = y1;
      for (let k = 0; k < count; k++) {
        const share = parts[k][x];
        if (share <= 1e-7) continue;
        let above = y1 - ((sum + share) * scale + 0.5 | 0);
        if (sum === 0 && above === y1) above = y1 - 1;
        sum += share;
        if (above >= below) continue;
        const ink = inks[k];
        const stop = ((below < bottom ? below : bottom) - up) * width + x0 + x;
        for (let p = ((above > top ? above : top) - up) * width + x0 + x; p < stop; p += width) pixels[p] = ink;
        below = above;
      }
    }
  }
}

// A frame of the timeline in a buffer of pixels: far faster than a rectangle call for every bar.

class Raster {
  constructor() { this.width = 0; this.height = 0; }

  resize(width, height) {
    if (width === this.width && height === this.height) return;
    this.width = width;
    this.height = height;
    this.image = new ImageData(Math.max(1, width), Math.max(1, height));
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  clear(colour) { this.pixels.fill(colour); }

  rect(x0, y0, x1, y1, colour) {
    x0 = Math.max(0, Math.round(x0));
    x1 = Math.min(this.width, Math.round(x1));
    y0 = Math.max(0, y0);
    y1 = Math.min(this.height, y1);
    if (x1 <= x0) return;
    for (let y = y0; y < y1; y++) this.pixels.fill(colour, y * this.width + x0, y * this.width + x1);
  }

  frame(x0, y0, x1, y1, colour, thick = 1) {
    this.rect(x0, y0, x1, y0 + thick, colour);
    this.rect(x0, y1 - thick, x1, y1, colour);
    this.rect(x0, y0, x0 + thick, y1, colour);
    this.rect(x1 - thick, y0, x1, y1, colour);
  }

  hatch(x0, y0, x1, y1, colour, step) {  // not recorded
    x0 = Math.max(0, Math.round(x0));
    x1 = Math.min(this.width, Math.round(x1));
    y0 = Math.max(0, y0);
    y1 = Math.min(this.height, y1);
    const thick = Math.max(1, step >> 2);
    for (let y = y0; y < y1; y++) {
      for (let x = x0 + ((step * 4096 - x0 - y) % step); x < x1; x += step) {
        for (let w = 0; w < thick && x + w < x1; w++) this.pixels[y * this.width + x + w] = colour;
      }
    }
  }

  // Shares as stacked columns from y1 upwards; what is there is never thinner than a pixel.
  stack(shares, x0, y0, y1, colours) {
    const { pixels, width } = this;
    const parts = shares.used.map((c) => shares.part[c]), inks = shares.used.map((c) => colours[c]);
    const count = parts.length, height = y1 - y0;
    const top = Math.max(0, y0), bottom = Math.min(this.height, y1);
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
        const stop = (below < bottom ? below : bottom) * width + x0 + x;
        for (let p = (above > top ? above : top) * width + x0 + x; p < stop; p += width) pixels[p] = ink;
        below = above;
      }
    }
  }
}

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
    const { used, part, columns } = shares;
    const height = y1 - y0;
    const top = Math.max(0, y0), bottom = Math.min(this.height, y1);
    for (let x = 0; x < columns; x++) {
      let total = 0;
      for (const c of used) total += part[c][x];
      if (total <= 1e-6) continue;
      const scale = height / Math.max(1, total);
      let sum = 0, below = y1;
      for (const c of used) {
        sum += part[c][x];
        let above = y1 - Math.round(sum * scale);
        if (above === y1 && part[c][x] > 0 && c === used[0]) above = y1 - 1;
        const colour = colours[c];
        for (let y = Math.max(above, top); y < Math.min(below, bottom); y++) this.pixels[y * this.width + x0 + x] = colour;
        if (above < below) below = above;
      }
    }
  }
}

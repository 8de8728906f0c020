/** Bars in groups: a group for each label, in it a bar for each series. */
export interface BarPlot {
  readonly title: string
  /** What the bars' height is. */
  readonly unit: string
  readonly labels: readonly string[]
  /** A value for each label; NaN where there is none. */
  readonly series: readonly { readonly name: string, readonly values: readonly number[] }[]
}

const WIDTH = 900
const HEIGHT = 400
const LEFT = 60
const TOP = 90
const RIGHT = 10
const BOTTOM = 40
/** Where bars are narrower, their values stand upright. */
const FLAT_WIDTH = 26
/** About what a letter of the legend is wide. */
const LETTER_WIDTH = 6.2
/** Told apart by colour-blind readers too (Okabe and Ito). */
const COLOURS = ['#0072b2', '#56b4e9', '#009e73', '#e69f00', '#d55e00', '#cc79a7', '#999999', '#f0e442']

/** An SVG of a plot, readable on light and on dark pages. */
export function drawBars ({ title, unit, labels, series }: BarPlot): string {
  const highest = Math.max(...series.flatMap(({ values }) => values.filter((value) => !Number.isNaN(value))))
  const step = niceStep(highest)
  const barWidth = (WIDTH - LEFT - RIGHT) / labels.length * 0.86 / series.length
  const isUpright = barWidth < FLAT_WIDTH
  // Upright values need room above the highest bar.
  const top = Math.ceil(highest * (isUpright ? 1.08 : 1) / step) * step
  const y = (value: number): number => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top)
  const groupWidth = (WIDTH - LEFT - RIGHT) / labels.length
  const grid = Array.from({ length: Math.round(top / step) + 1 }, (_, index) => index * step).map((value) =>
    `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${round(y(value))}" y2="${round(y(value))}" stroke="#dddddd"/>` +
    text(LEFT - 6, y(value) + 4, Number(value.toFixed(6)).toLocaleString('en'), 'end'))
  const bars = series.flatMap(({ values }, index) => values.map((value, group) => {
    if (Number.isNaN(value)) return ''
    const x = LEFT + groupWidth * (group + 0.07) + barWidth * index
    return `<rect x="${round(x)}" y="${round(y(value))}" width="${round(barWidth * 0.92)}" height="${round(y(0) - y(value))}" fill="${COLOURS[index % COLOURS.length]}"/>` +
      (isUpright ? upright(x + barWidth * 0.46 + 3, y(value) - 3, brief(value)) : text(x + barWidth * 0.46, y(value) - 3, brief(value), 'middle', 9))
  }))
  let legendEnd = LEFT
  const legend = series.map(({ name }, index) => {
    const x = legendEnd
    legendEnd += 30 + name.length * LETTER_WIDTH
    return `<rect x="${round(x)}" y="42" width="10" height="10" fill="${COLOURS[index % COLOURS.length]}"/>` + text(x + 14, 51, name, 'start')
  })
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" font-family="sans-serif" role="img">`,
    `<title>${escape(title)}</title>`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#ffffff"/>`,
    text(LEFT, 22, `${title}: ${unit}`, 'start', 14),
    ...legend, ...grid, ...bars.filter((bar) => bar !== ''),
    ...labels.map((label, group) => text(LEFT + groupWidth * (group + 0.5), HEIGHT - BOTTOM + 18, label, 'middle', 12)),
    '</svg>', ''
  ].join('\n')
}

/** One, two or five times a power of ten, so that there are four to ten lines. */
function niceStep (highest: number): number {
  const power = 10 ** Math.floor(Math.log10(highest / 4))
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => highest / step <= 8) ?? power
}

function text (x: number, y: number, content: string, anchor: 'start' | 'middle' | 'end', size = 11): string {
  return `<text x="${round(x)}" y="${round(y)}" text-anchor="${anchor}" font-size="${size}" fill="#333333">${escape(content)}</text>`
}

function upright (x: number, y: number, content: string): string {
  return `<text transform="translate(${round(x)} ${round(y)}) rotate(-90)" font-size="9" fill="#333333">${escape(content)}</text>`
}

function brief (value: number): string {
  return value >= 100 ? String(Math.round(value)) : value >= 10 ? value.toFixed(1) : value.toFixed(2)
}

function round (value: number): number {
  return Math.round(value * 10) / 10
}

function escape (content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}

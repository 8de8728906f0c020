import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'

/** Where a page leads to. */
export interface Link {
  /** The page, relative to the site. */
  readonly from: string
  /** As it stands there. */
  readonly target: string
}

/** The pages of a built site, relative to its folder. */
export function pagesOf (folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.html'))
}

/** Everything that a page leads to, shows or loads. */
export function linksOf (folder: string, page: string): Link[] {
  const html = readFileSync(join(folder, page), 'utf8')
  return [...html.matchAll(/\s(?:href|src)="([^"]*)"/g)].map(([, target]) => ({ from: page, target: unescaped(target!) }))
}

/** A link within the site: the file, relative to its folder, and what is meant of it. */
export function within ({ from, target }: Link): { file: string, fragment: string } {
  const [path, fragment] = target.split('#')
  return { file: path === '' ? from : normalize(join(dirname(from), decodeURIComponent(path!))), fragment: decodeURIComponent(fragment ?? '') }
}

/** The names of a page's parts, which a link's fragment may be. */
export function fragmentsOf (folder: string, page: string): Set<string> {
  return new Set([...readFileSync(join(folder, page), 'utf8').matchAll(/\sid="([^"]*)"/g)].map(([, id]) => unescaped(id!)))
}

function unescaped (html: string): string {
  return html.replaceAll('&quot;', '"').replaceAll('&#39;', "'").replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&')
}

import { existsSync, statSync } from 'node:fs'
import { dirname, relative, resolve } from 'node:path'
import { root } from '../tools/packages.ts'

/** Where what is no page of the site can be read. */
export const REPOSITORY = 'https://github.com/node-vmm/node-vmm'

/** What a document's links do on the site. */
export interface Links {
  /** The document's text for the site. */
  readonly text: string
  /** Links that lead to no file, as they stand in the document. */
  readonly broken: readonly string[]
}

/**
 * Points the relative links of a document, that lead to files and folders which are no pages of the site, to the
 * repository. Links to pages and pictures stay as they are.
 */
export function rewriteLinks (document: string, text: string, isPage: (path: string) => boolean): Links {
  const broken: string[] = []
  const rewritten = text.replace(/\]\(([^)\s]+)\)/g, (link, target: string) => {
    if (/^(?:[a-z]+:|#)/.test(target)) return link
    const path = resolve(dirname(document), target.replace(/#.*/, ''))
    if (!existsSync(path)) broken.push(target)
    else if (!isPage(path) && !isPicture(path)) return `](${inRepository(path)})`
    return link
  })
  return { text: rewritten, broken }
}

function isPicture (path: string): boolean {
  return /\.(?:svg|png)$/.test(path)
}

function inRepository (path: string): string {
  return `${REPOSITORY}/${statSync(path).isDirectory() ? 'tree' : 'blob'}/main/${relative(root, path)}`
}

// The documentation as its readers get it: built from the sources, every link followed, looked at by a browser.
import { deepEqual, ok } from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { chromium, type Browser, type Page } from 'playwright-core'
import { test } from 'uvu'
import { buildSite } from '../../site/build.ts'
import { REPOSITORY } from '../../site/links.ts'
import { root } from '../../tools/packages.ts'
import { find, programs, testWith } from '../support/programs.ts'
import { temporaryFolder } from '../support/temporary.ts'
import { fragmentsOf, type Link, linksOf, pagesOf, within } from './folder.ts'

const folder = temporaryFolder()
const isBuilt = await buildSite(folder)
const pages = pagesOf(folder)
const links = pages.flatMap((page) => linksOf(folder, page))

test('the documentation is built without a warning: every public symbol has a comment, every {@link} leads somewhere', () => {
  ok(isBuilt, 'typedoc warned: see above')
})

test('every link within the site leads to a file, and to a part that is there', () => {
  const known = new Map<string, Set<string>>()
  const broken = links.filter(({ target }) => !/^[a-z]+:/.test(target)).filter((link) => {
    const { file, fragment } = within(link)
    if (!existsSync(join(folder, file))) return true
    if (fragment === '' || !file.endsWith('.html')) return false
    if (!known.has(file)) known.set(file, fragmentsOf(folder, file))
    return !known.get(file)!.has(fragment)
  })
  ok(links.length > 10 * pages.length, 'pages have links')
  deepEqual(broken.map(words), [])
})

test('every link into the repository leads to a file of it', () => {
  const ours = links.filter(({ target }) => target.startsWith(`${REPOSITORY}/blob/`) || target.startsWith(`${REPOSITORY}/tree/`))
  const broken = ours.filter(({ target }) => !existsSync(join(root, target.slice(`${REPOSITORY}/blob/main/`.length).replace(/#.*/, ''))))
  ok(ours.length > 0)
  deepEqual([...new Set(broken.map(words))], [])
})

test('every picture says in words what it shows', () => {
  const pictures = readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.svg'))
  const mute = pictures.filter((file) => !/<svg [^>]*role="img"[^>]*>\s*<title[^>]*>[^<]+</.test(readFileSync(join(root, 'docs', file), 'utf8')))
  ok(pictures.length > 1)
  deepEqual(mute, [])
})

testWith(programs('chromium-headless-shell'))('a browser shows the main pages without an error, on a phone without scrolling sideways', async () => {
  const browser = await chromium.launch({ executablePath: find('chromium-headless-shell')! })
  try {
    const faults: string[] = []
    const page = await phone(browser, faults)
    for (const path of mainPages()) {
      await page.goto(`http://site.test/${encodeURI(path)}`)
      faults.push(...(await page.evaluate(LOOK) as string[]).map((fault) => `${path}: ${fault}`))
    }
    deepEqual(faults, [])
  } finally {
    await browser.close()
  }
})

function mainPages (): string[] {
  const one = (kind: string): string => pages.filter((page) => page.startsWith(`${kind}/`)).sort()[0]!
  return [...pages.filter((page) => /^(?:documents\/|modules\/|[^/]*$)/.test(page)), one('classes'), one('interfaces'), one('functions')]
}

/** A page as wide as a phone's, that is served the folder's files. What goes wrong is told. */
async function phone (browser: Browser, faults: string[]): Promise<Page> {
  const page = await browser.newPage({ viewport: { width: 390, height: 844 } })
  page.on('console', (message) => { if (['error', 'warning'].includes(message.type())) faults.push(`${page.url()}: ${message.text()}`) })
  page.on('pageerror', (error) => faults.push(`${page.url()}: ${error.message}`))
  page.on('requestfailed', (request) => faults.push(`${page.url()}: ${request.url()} failed`))
  await page.route('**/*', async (route) => {
    const { host, pathname } = new URL(route.request().url())
    const path = join(folder, decodeURIComponent(pathname))
    if (host === 'site.test' && existsSync(path)) return await route.fulfill({ path })
    await route.abort()
  })
  return page
}

/** Evaluated in the page: what a reader would not see. */
const LOOK = `(() => {
  const { scrollWidth, clientWidth } = document.documentElement
  const unseen = [...document.images].filter((image) => image.naturalWidth === 0).map((image) => 'no picture: ' + image.src)
  return scrollWidth <= clientWidth ? unseen : [...unseen, 'as wide as ' + scrollWidth + ' of ' + clientWidth + ' pixels']
})()`

function words ({ from, target }: Link): string {
  return `${from} leads to ${target}`
}

test.run()

import type { SurfaceName } from './options.ts'
import type { Surface } from './surface.ts'

/** Loads one surface: each brings its own part of the product along. */
export async function openSurface (name: SurfaceName): Promise<Surface> {
  switch (name) {
    case 'ring': return (await import('./ring/surface.ts')).ring
    case 'request': return (await import('./request/surface.ts')).request
    case 'message': return (await import('./message/surface.ts')).message
    case 'inflight': return (await import('./inflight/surface.ts')).inflight
    case 'race': return (await import('./race/surface.ts')).race
  }
}

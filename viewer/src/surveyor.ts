// Keeps the map and the ranking of layers up to date with the recording and the view.

import type { Archive } from "./archive";
import type { Survey } from "./map/change";
import { networkOf, type Layer, type Network } from "./map/network";
import type { Run } from "./source";
import type { Store, View } from "./state";
import { fellows } from "./scene/layout";
import { NetworkMap } from "./ui/map";
import { Where } from "./ui/where";

const EXPERTS = 15;
const BESIDE = 5; // tensors of a layer that are shown together

export class Surveyor {
  readonly map: NetworkMap;
  readonly where: Where;
  private network: Network | null = null;
  private asked = 0;

  constructor(private store: Store, private archive: Archive, trouble: (text: string) => void) {
    this.map = new NetworkMap(store);
    this.where = new Where(store);
    this.map.onOpen = this.where.onOpen = (layer) => this.open(layer);
    this.trouble = trouble;
  }

  private trouble: (text: string) => void;

  /** Tells of the network at once and of its changes as they are surveyed, which begins when `before` is there. */
  async fill(run: Run, before: Promise<void> = Promise.resolve()): Promise<void> {
    const network = (this.network = networkOf(run)), asked = ++this.asked;
    this.map.fill(network);
    this.where.fill(network);
    this.map.show();
    await before;
    try {
      await this.archive.survey(0, (survey: Survey, of) => {
        if (asked !== this.asked) return;
        this.map.told(survey, of);
        this.where.told(survey);
      });
    } catch (error) { this.trouble((error as Error).message); }
  }

  /** A layer's matrix, and beside it its other tensors, or the same matrix of the other experts. */
  private open(layer: Layer): void {
    const [first, ...rest] = [...layer.tensors].sort((a, b) => this.weights(b) - this.weights(a));
    const experts = fellows(this.run?.tensors.map((t) => t.name) ?? [], first).filter((name) => name !== first);
    this.store.set({ tensor: first, also: experts.length ? experts.slice(0, EXPERTS) : rest.slice(0, BESIDE), zoom: "", show: this.store.view.show === "pair" ? "pair" : "one" });
  }

  private weights(name: string): number {
    const tensor = this.run?.tensors.find((t) => t.name === name);
    return tensor ? tensor.pieces[tensor.pieces.length - 1].shape.reduce((a, b) => a * b, 1) : 0;
  }

  run: Run | null = null;

  changed(changed: Set<keyof View>): void {
    if (!this.network) return;
    if (changed.has("map")) this.map.show();
    const now = this.store.view.rank === "now" && changed.has("frame");
    if (changed.has("tensor") || changed.has("rank") || changed.has("map") || now) { this.map.show(); this.map.colour(); this.where.draw(); }
  }
}

/** The chart beside the reference service in either form of its Rollout: adopting its Deployment, or owning its pods' template. */
import { BillingService, type DeployOptions, SERVICE } from './billing-service.ts';
import { loadImage, Namespace } from './cluster.ts';
import { hurried, over } from './hurried.ts';
import { type Layers, Release } from './release.ts';
import { JOBS_IMAGE, SERVICE_IMAGE } from './shop.ts';

export const forms = ['adopting', 'owning'] as const;
export type Form = (typeof forms)[number];

export class FormedService {
  readonly form: Form;
  readonly namespace: Namespace;
  readonly service: BillingService;
  readonly #values: object;
  #release: Release | undefined;

  private constructor(form: Form, namespace: Namespace, service: BillingService, values: object) {
    this.form = form;
    this.namespace = namespace;
    this.service = service;
    this.#values = values;
  }

  /** Database and router, and in the one form the Deployment; nothing of the chart. */
  static async prepare(
    form: Form,
    { sessions, values }: { sessions: number; values: object },
  ): Promise<FormedService> {
    for (const image of ['postgres:18', JOBS_IMAGE, SERVICE_IMAGE]) await loadImage(image);
    const namespace = await Namespace.create();
    const service = new BillingService(namespace, SERVICE_IMAGE);
    await service.prepare(sessions);
    await service.deploy({ version: 'v1' });
    if (form === 'owning') await namespace.kubectl('delete', 'deployment', SERVICE);
    return new FormedService(form, namespace, service, values);
  }

  get release(): Release {
    if (this.#release === undefined) throw new Error('it is not installed');
    return this.#release;
  }

  #layers(version: DeployOptions, values: object): Layers {
    const owned = {
      rollout: {
        deployment: '',
        template: this.service.template(version),
        selector: { matchLabels: { app: SERVICE } },
      },
    };
    const all = over(over(hurried, this.#values), values);
    return { example: 'staging.yaml', values: this.form === 'owning' ? over(all, owned) : all };
  }

  async install(): Promise<void> {
    this.#release = await Release.install('guard', this.namespace, this.#layers({ version: 'v1' }, {}));
  }

  /** The next version, as each form is given one: the service's own release, or that of the chart. */
  async next(version: DeployOptions): Promise<void> {
    if (this.form === 'adopting') await this.service.deploy(version);
    else await this.release.upgrade(this.#layers(version, {}));
  }

  /** Other values for the same version. */
  async upgrade(version: DeployOptions, values: object): Promise<void> {
    await this.release.upgrade(this.#layers(version, values));
  }
}

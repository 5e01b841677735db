import { bearerMatches } from '@counterfoil/nestjs';
import {
  type CanActivate,
  type ExecutionContext,
  Inject,
  Injectable,
  UnauthorizedException,
} from '@nestjs/common';
import { SETTINGS, type Settings } from './settings.js';

/** Lets only the token of the replay endpoint through. */
@Injectable()
export class AdminTokenGuard implements CanActivate {
  constructor(@Inject(SETTINGS) private readonly settings: Settings) {}

  canActivate(context: ExecutionContext): boolean {
    const { headers } = context.switchToHttp().getRequest<{ headers: Record<string, string | undefined> }>();
    const { replayToken } = this.settings;
    if (replayToken !== undefined && bearerMatches(headers.authorization, replayToken)) return true;
    throw new UnauthorizedException('this needs the bearer token of the service');
  }
}

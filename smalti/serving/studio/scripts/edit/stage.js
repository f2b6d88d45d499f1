export class EditStage { constructor(){} get job(){return null} get result(){return null} async open(){} async submit(){} watch(){} async restore(){} shortcuts(){return []} }
